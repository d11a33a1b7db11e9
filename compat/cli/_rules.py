"""Rules that rename keys, as the command line takes them."""

from __future__ import annotations

import re

import click

from compat.keys import Rule


def rules_of(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> list[Rule]:
    r"""The rules of texts such as `^module\.=>`, each a regular expression and what replaces it."""
    del context, parameter
    return [_rule(text) for text in texts]


def _rule(text: str) -> Rule:
    pattern, arrow, replacement = text.partition("=>")
    if not arrow or not pattern:
        raise click.BadParameter(f"{text!r} is no rule; expected PATTERN=>REPLACEMENT, such as '^old\\.=>new.'")
    try:
        compiled = re.compile(pattern)
        # An unknown group in the replacement shows only when it is used.
        re.compile(f"{pattern}|").sub(replacement, "")
    except (re.error, IndexError) as error:
        raise click.BadParameter(f"{text!r} is no rule: {error}") from error
    return compiled, replacement
