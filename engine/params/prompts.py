"""The forms of a prompt; vLLM's names for those that are mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str
    cache_salt: NotRequired[str | None]
    priority: NotRequired[int]


class TokensPrompt(TypedDict):
    """A prompt as token ids; ``prompt``, its text, is only given back."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str | None]
    cache_salt: NotRequired[str | None]
    priority: NotRequired[int]


class EmbedsPrompt(TypedDict):
    """A prompt as embeddings, a tensor [tokens, hidden]; ``prompt``, its text, is only given back."""

    prompt_embeds: Any
    prompt: NotRequired[str | None]
    cache_salt: NotRequired[str | None]
    priority: NotRequired[int]


Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, or a mapping with ``prompt``, ``prompt_token_ids``, ``prompt_embeds`` or ``messages``.

``engine.text.inputs`` reads them.
"""
