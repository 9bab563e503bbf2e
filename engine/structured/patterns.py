"""Regular expressions in Lark grammars."""

from __future__ import annotations


def lark_regex(pattern: str) -> str:
    r"""The pattern as it stands between slashes; \d, \w and \s mean ASCII characters, as in JSON schemas."""
    import llguidance

    return llguidance.regex_to_lark(pattern, "dws")
