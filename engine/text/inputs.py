"""Turns what callers pass as prompts into token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.params import Prompt
from engine.text.tokenizer import Tokenizer

KEYS = ("prompt", "prompt_token_ids", "messages", "chat_template_kwargs", "cache_salt", "priority")


class InputError(ValueError):
    """A prompt that cannot be run; the message says why and what is allowed."""


@dataclass(frozen=True)
class Input:
    """A prompt ready for the engine. ``text`` is ``None`` where the caller gave token ids or messages."""

    token_ids: list[int]
    text: str | None = None
    cache_salt: str = ""
    priority: int = 0


def read_inputs(prompts: Sequence[Prompt], tokenizer: Tokenizer | None) -> list[Input | InputError]:
    """Render and tokenize prompts; a bad one gives its error and leaves the others alone.

    Plain texts are tokenized together, which the tokenizer does in parallel.
    """
    results: list[Input | InputError] = [InputError("not read")] * len(prompts)
    texts: list[tuple[int, Mapping[str, Any], str]] = []
    for i, prompt in enumerate(prompts):
        try:
            fields = _fields(prompt)
            if "prompt" in fields:
                texts.append((i, fields, fields["prompt"]))
            else:
                results[i] = _input(fields, _token_ids(fields, tokenizer), None)
        except ValueError as error:
            results[i] = InputError(str(error))
    for (i, fields, text), ids in zip(texts, _encode([text for *_, text in texts], tokenizer), strict=True):
        results[i] = ids if isinstance(ids, InputError) else _checked(fields, ids, text)
    return results


def _fields(prompt: Prompt) -> Mapping[str, Any]:
    """A prompt of any form as a mapping with the keys of ``KEYS``."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if not isinstance(prompt, Mapping):
        return {"prompt_token_ids": prompt}
    unknown = [key for key in prompt if key not in KEYS]
    if unknown:
        raise InputError(f"prompt key {unknown[0]!r} is not supported; supported are {', '.join(KEYS)}")
    if sum(key in prompt for key in ("prompt", "prompt_token_ids", "messages")) != 1:
        raise InputError("a prompt must have exactly one of prompt, prompt_token_ids and messages")
    return prompt


def _token_ids(fields: Mapping[str, Any], tokenizer: Tokenizer | None) -> list[int]:
    if "messages" in fields:
        return _needed(tokenizer, "messages").apply_chat_template(
            fields["messages"], **fields.get("chat_template_kwargs") or {}
        )
    ids = list(fields["prompt_token_ids"])
    wrong = next((x for x in ids if not isinstance(x, int) or isinstance(x, bool)), None)
    if wrong is not None:
        raise InputError(f"prompt_token_ids must be integers, found {wrong!r}")
    return ids


def _encode(texts: list[str], tokenizer: Tokenizer | None) -> list[list[int] | InputError]:
    """Tokenize texts together; if that fails, one by one, to find which of them is at fault."""
    if not texts:
        return []
    try:
        return list(_needed(tokenizer, "a text prompt").encode_batch(texts))
    except ValueError:
        return [_encode_one(text, tokenizer) for text in texts]


def _encode_one(text: str, tokenizer: Tokenizer | None) -> list[int] | InputError:
    try:
        return _needed(tokenizer, "a text prompt").encode(text)
    except ValueError as error:
        return InputError(str(error))


def _checked(fields: Mapping[str, Any], ids: list[int], text: str) -> Input | InputError:
    try:
        return _input(fields, ids, text)
    except InputError as error:
        return error


def _input(fields: Mapping[str, Any], ids: list[int], text: str | None) -> Input:
    salt, priority = fields.get("cache_salt") or "", fields.get("priority", 0)
    if not isinstance(salt, str):
        raise InputError(f"cache_salt must be a string, not {salt!r}")
    if not isinstance(priority, int):
        raise InputError(f"priority must be an integer, not {priority!r}")
    return Input(ids, text, salt, priority)


def _needed(tokenizer: Tokenizer | None, what: str) -> Tokenizer:
    if tokenizer is None:
        raise InputError(f"{what} needs a tokenizer, but skip_tokenizer_init is set: pass prompt_token_ids")
    return tokenizer
