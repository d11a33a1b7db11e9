"""What a file of text is, where a checkpoint was expected: a web page, a pointer, an error message, code."""

from __future__ import annotations

import codecs
import json
import re
from typing import Final

from compat.errors import brief
from compat.formats._looks import Look, file_name, new_name
from compat.sources import Source

_DOWNLOAD: Final = "The link that it came from needs a login, a token or another address; get the file itself."
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_PYTHON: Final = re.compile(r"(?m)^(#!.*python|import \w|from [\w.]+ import |def \w+\(.*:$|class \w+.*:$)")
_YAML: Final = re.compile(r"""(\s*#.*|---.*|\s*-( .*)?|\s*(- )?["']?[\w./ -]+["']?:(\s.*)?)?""")
_LFS: Final = re.compile(r"version https://(?:git-lfs|hawser)\.github\.com/spec/v\d+\s+oid (\S+)\s+size (\d{1,20})")
_ANNEX: Final = re.compile(r"\S*annex/objects/(?:\S*/)?[A-Z0-9_]+(?:-s(\d{1,20}))?(?:-\S*)?--\S+")
_TITLE: Final = re.compile(r"(?is)<title[^>]*>\s*(.*?)\s*</title>")
_CODE: Final = re.compile(r"(?is)<(?:code|message)>\s*(.*?)\s*</")
_BASE64_ZIP: Final = re.compile(r"UEsDB[A-Za-z0-9+/=\s]{16,}")


def text_of(head: bytes) -> str | None:
    """The beginning of a file as text; None where it is none."""
    try:
        # A character may be cut where the head ends.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) or not text.strip() else text


def text_look(source: Source) -> Look | None:
    """What a text is; None where the source begins with none."""
    text = text_of(source.head)
    if text is None:
        return None
    start = text.lstrip()
    for recognise in (_pointer, _page, _json, _notation):
        look = recognise(start, source)
        if look is not None:
            return look
    return Look(f"plain text: {brief(start.splitlines()[0], 60)}", "Check that this is the file you meant.")


def _pointer(text: str, source: Source) -> Look | None:
    """A stand-in that a version control system left in the file's place."""
    if found := _LFS.match(text):
        return Look(
            f"a git-LFS pointer, not the file itself, which has {int(found[2]):,} bytes ({found[1][:80]})",
            f"Fetch the content with: git lfs pull --include {file_name(source)}",
        )
    if text.startswith("version https://git-lfs"):
        return Look("a git-LFS pointer, not the file itself", "Fetch the content with: git lfs pull")
    if found := _ANNEX.match(text):
        size = f", which has {int(found[1]):,} bytes" if found[1] else ""
        return Look(
            f"a git-annex pointer, not the file itself{size}",
            f"Fetch the content with: git annex get {file_name(source)}",
        )
    return None


def _page(text: str, source: Source) -> Look | None:
    """Something that a web server says instead of giving the file."""
    del source
    if re.match(r"(?i)<(!doctype html|html|head|script|meta)", text):
        title = _TITLE.search(text)
        return Look(f"an HTML page{f', {brief(title[1], 80)}' if title else ''}", _DOWNLOAD)
    if text.startswith("<?xml") or re.match(r"(?i)<error", text):
        code = _CODE.search(text)
        return Look(f"an XML document{f' that says {brief(code[1], 80)}' if code else ''}", _DOWNLOAD)
    if re.match(r"HTTP/[\d.]+ \d+", text):
        hint = "The headers were saved too; the content begins behind the first empty line. Download it without -i."
        return Look("the whole answer of a web server, headers and all", hint)
    return None


def _json(text: str, source: Source) -> Look | None:
    if not re.match(r'\{\s*["}]|\[\s*[\[{"\d\]-]', text):
        return None
    keys: list[str] = []
    if source.size <= len(source.head):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        keys = list(content) if isinstance(content, dict) else []
    if "weight_map" in keys:
        hint = "It is an index of shards, but none that can be followed; open one of the shards."
    elif {"error", "message", "detail"} & set(keys):
        hint = _DOWNLOAD
    else:
        hint = "It describes something; the tensors lie in another file."
    held = f" with {brief(keys[:4], 120)}" if keys else ""
    return Look(f"JSON text{held}", hint)


def _notation(text: str, source: Source) -> Look | None:
    """Code, settings, and bytes written as letters."""
    name = file_name(source)
    if _BASE64_ZIP.match(text):
        return Look(
            "a zip archive written as Base64 text",
            f"Decode it first: base64 -d {name} > {new_name(source, '.b64', '.txt')}",
        )
    if text.startswith("model_checkpoint_path:"):
        return Look(
            "the list of a TensorFlow checkpoint's files", "TensorFlow reads such checkpoints; compat does not."
        )
    if _PYTHON.search(text):
        return Look("Python source", "It makes a model when it is run; the tensors lie in another file.")
    lines = [line for line in text.splitlines()[:-1][:50] if line.strip()]
    if len(lines) > 1 and all(_YAML.fullmatch(line) for line in lines):
        return Look("YAML text", "It describes something; the tensors lie in another file.")
    return None
