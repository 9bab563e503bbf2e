"""Reasoning in an answer's text, and what comes after it."""

from __future__ import annotations

from collections.abc import Mapping

MARKS: Mapping[str, tuple[str, str]] = {
    "think": ("<think>", "</think>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "seed_oss": ("<seed:think>", "</seed:think>"),
    "gemma4": ("<|channel>thought\n", "<channel|>"),
    "granite": ("Here is my thought process:", "Here is my response:"),
}
"""Parsers by name: what opens and what closes the reasoning."""

ALIASES: Mapping[str, str] = dict.fromkeys(
    ("deepseek_r1", "deepseek_v3", "qwen3", "glm45", "kimi_k2", "minimax_m2", "nemotron_v3", "olmo3", "step3", "holo2"),
    "think",
)
"""vLLM's names for the same marks."""


def split_reasoning(text: str, marks: tuple[str, str], opened: bool = False) -> tuple[str | None, str]:
    """Reasoning (``None`` where there is none) and the rest of a text.

    Line breaks next to a mark belong to the mark; all else ends up in one of the two. Only the first stretch of
    reasoning is taken out. Without its end (a cut output) it is all that follows; an end without a beginning closes
    what began the text.

    Args:
        text: what the model wrote.
        marks: what opens and what closes the reasoning.
        opened: the prompt has opened it already.
    """
    begin, end = marks
    start = text.find(begin)
    stop = text.find(end, start + len(begin) if start >= 0 else 0)
    if opened and (start < 0 or text[:start].strip()):
        before, inner = "", 0  # a mark further on is part of the reasoning or of the answer
        stop = text.find(end)
    elif start >= 0:
        early = text.find(end, 0, start)
        if early >= 0:  # closed before it is opened: the text began with reasoning
            before, inner, stop = "", 0, early
        else:
            before, inner = text[:start], start + len(begin)
    elif stop >= 0:
        before, inner = "", 0
    else:
        return None, text
    reasoning = text[inner:] if stop < 0 else text[inner:stop]
    after = "" if stop < 0 else text[stop + len(end) :]
    return reasoning.strip("\n") or None, before.rstrip("\n") + after.lstrip("\n")
