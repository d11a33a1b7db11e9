"""Findings of scans as SARIF, the format by which code hosts show what tools found.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0, sections 3.13 (sarifLog), 3.14 (run),
3.20 (invocation), 3.27 (result), 3.30.11 (byteOffset) and 3.49 (reportingDescriptor).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

import compat
from compat.errors import CompatError
from compat.scanning import Finding, Findings
from compat.schemes import is_url

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
VERSION: Final = "2.1.0"

# Severity → the rule's id, its name, and what it says.
_RULES: Final = {
    "warning": (
        "unknown-global",
        "UnknownGlobal",
        "Loading this file without limits imports code that is not known to be harmless.",
    ),
    "error": (
        "dangerous-global",
        "DangerousGlobal",
        "Loading this file without limits runs what is known to do harm.",
    ),
}


def to_sarif(scanned: Sequence[Findings], unread: Iterable[tuple[str, CompatError]] = ()) -> dict[str, Any]:
    """One SARIF log with one run.

    Args:
        scanned: the findings of every file.
        unread: files that could not be opened at all, with the reason.
    """
    failures = [(found.source, found.error) for found in scanned if found.error is not None]
    failures += list(unread)
    invocation: dict[str, Any] = {"executionSuccessful": not failures}
    if failures:
        invocation["toolExecutionNotifications"] = [_notification(source, error) for source, error in failures]
    run = {
        "tool": {
            "driver": {
                "name": "compat scan",
                "version": compat.__version__,
                "rules": [
                    {
                        "id": rule,
                        "name": name,
                        "shortDescription": {"text": text},
                        "defaultConfiguration": {"level": level},
                    }
                    for level, (rule, name, text) in _RULES.items()
                ],
            }
        },
        "invocations": [invocation],
        "results": [_result(found.source, finding) for found in scanned for finding in found.executed],
    }
    return {"$schema": SCHEMA, "version": VERSION, "runs": [run]}


def _notification(source: str, error: CompatError) -> dict[str, Any]:
    return {
        "level": "error",
        "message": {"text": str(error)},
        "descriptor": {"id": error.code},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(source)}}}],
    }


def _result(source: str, finding: Finding) -> dict[str, Any]:
    levels = list(_RULES)
    rule = _RULES[finding.severity][0]
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(source)}}
    if finding.file_offset is not None:
        place["region"] = {"byteOffset": finding.file_offset, "byteLength": 1}
    location: dict[str, Any] = {"physicalLocation": place}
    names = [f"{finding.stream}: {path}" if finding.stream else path for path in finding.paths]
    if names or finding.stream:
        location["logicalLocations"] = [
            {"fullyQualifiedName": name} for name in dict.fromkeys(names or [finding.stream])
        ]
    return {
        "ruleId": rule,
        "ruleIndex": levels.index(finding.severity),
        "level": finding.severity,
        "message": {"text": f"{finding.name} {finding.reason}"},
        "locations": [location],
        # Stable across runs: what is named in which stream, not where.
        "partialFingerprints": {"global/v1": f"{finding.stream}:{finding.name}"},
    }


def _uri(source: str) -> str:
    """A relative reference for a relative path, an absolute URI for an absolute one and for a URL."""
    if is_url(source):
        return quote(source, safe=":/?&=%#@+,;~")
    path = PurePath(source)
    if path.is_absolute():
        return path.as_uri()
    return quote(os.fsencode(path.as_posix()), safe="/")
