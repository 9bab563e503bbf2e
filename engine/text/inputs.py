"""Turns what callers pass as prompts into token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

from engine.params import Prompt
from engine.text.chat import ChatOptions, render_chat
from engine.text.reply import ReplyFormat, reply_format
from engine.text.template import ChatTemplateError
from engine.text.tokenizer import Tokenizer

CHAT_KEYS = tuple(ChatOptions.__dataclass_fields__)
REPLY_KEYS = ("reasoning_parser", "tool_parser")
KINDS = ("prompt", "prompt_token_ids", "messages", "prompt_embeds")
KEYS = (*KINDS, *CHAT_KEYS, *REPLY_KEYS, "cache_salt", "priority")
# Keys of vLLM's prompts that ask for what no model here does.
REFUSED: Mapping[str, str] = {
    "multi_modal_data": "models here read text only",
    "multi_modal_uuids": "models here read text only",
    "mm_processor_kwargs": "models here read text only",
    "encoder_prompt": "there are no encoder-decoder models here",
    "decoder_prompt": "there are no encoder-decoder models here",
}


class InputError(ValueError):
    """A prompt that cannot be run; the message says why and what is allowed."""


@dataclass(frozen=True)
class Input:
    """A prompt ready for the engine.

    Args:
        token_ids: of the whole prompt.
        text: what was tokenized; ``None`` where the caller gave token ids.
        cache_salt: separates prefix cache entries of equal tokens.
        priority: lower runs first under the ``priority`` policy.
        ends: how many special tokens the tokenizer put before and after the text.
        reply: how the answer is to be parsed, if at all.
        embeds: a tensor [tokens, hidden] that stands in for the token ids, which are zeros then.
    """

    token_ids: list[int]
    text: str | None = None
    cache_salt: str = ""
    priority: int = 0
    ends: tuple[int, int] = (0, 0)
    reply: ReplyFormat | None = None
    embeds: Any = None

    def kept(self, asked: int | None, limit: int, side: str = "left") -> Input:
        """The prompt as ``truncate_prompt_tokens`` asks for it: all of it for ``None``, ``limit`` tokens for -1.

        Raises:
            InputError: there is room for the special tokens alone.
        """
        return self if asked is None else self.truncated(limit if asked == -1 else asked, side)

    def truncated(self, keep: int, side: str = "left") -> Input:
        """At most ``keep`` tokens: the special ones at the ends stay, the rest is cut on the ``left`` or ``right``.

        Raises:
            InputError: there is room for the special tokens alone.
        """
        if len(self.token_ids) <= keep:
            return self
        before, after = self.ends
        room, inner = keep - before - after, len(self.token_ids) - before - after
        if room < 1:
            raise InputError(
                f"truncate_prompt_tokens={keep} leaves no room for text beside {before + after} special tokens"
            )
        start = before + (inner - room if side == "left" else 0)
        ids, embeds = self.token_ids, None if self.embeds is None else self.embeds[start : start + room]
        ids = [*ids[:before], *ids[start : start + room], *ids[len(ids) - after :]]
        return replace(self, token_ids=ids, embeds=embeds)


class _Text(NamedTuple):
    """A text that waits for its token ids."""

    at: int
    fields: Mapping[str, Any]
    text: Any
    reply: ReplyFormat | None


def read_inputs(prompts: Sequence[Prompt], tokenizer: Tokenizer | None) -> list[Input | InputError]:
    """Render and tokenize prompts; a bad one gives its error and leaves the others alone.

    Texts are tokenized together, which the tokenizer does in parallel, without holding Python's lock.
    """
    results: list[Input | InputError] = [InputError("not read")] * len(prompts)
    texts: list[_Text] = []
    rendered: list[_Text] = []  # by a template, which writes special tokens itself
    for at, prompt in enumerate(prompts):
        try:
            fields = _fields(prompt)
            if "prompt_token_ids" in fields:
                results[at] = _input(fields, _token_ids(fields), _text_beside(fields))
            elif "prompt_embeds" in fields:
                results[at] = _embedded(fields)
            elif "messages" in fields:
                rendered.append(_rendered(at, fields, tokenizer))
            else:
                texts.append(_Text(at, fields, fields["prompt"], None))
        except ValueError as error:
            results[at] = InputError(str(error))
        except Exception as error:  # whatever is wrong with one prompt, the others must not share its fate
            results[at] = InputError(f"the prompt cannot be read: {error or type(error).__name__}")
    for group, special in ((texts, True), (rendered, False)):
        for item, ids in zip(group, _encode([item.text for item in group], tokenizer, special), strict=True):
            ends = tokenizer.added_ends if special and tokenizer is not None else (0, 0)
            results[item.at] = ids if isinstance(ids, InputError) else _checked(item, ids, ends)
    return results


def _fields(prompt: Prompt) -> Mapping[str, Any]:
    """A prompt of any form as a mapping with the keys of ``KEYS``, those that say nothing left out."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if not isinstance(prompt, Mapping):
        return {"prompt_token_ids": prompt}
    prompt = {key: value for key, value in prompt.items() if value is not None}
    for key, reason in REFUSED.items():
        if key in prompt:
            raise InputError(f"prompt key {key!r} is not supported: {reason}")
    unknown = [key for key in prompt if key not in KEYS]
    if unknown:
        raise InputError(f"prompt key {unknown[0]!r} is not supported; supported are {', '.join(KEYS)}")
    given = [key for key in KINDS if key in prompt]
    if len(given) != 1 and given not in (["prompt", "prompt_token_ids"], ["prompt", "prompt_embeds"]):
        # as in vLLM, where token ids and embeddings may have their text beside them
        raise InputError("a prompt must have exactly one of prompt, prompt_token_ids, messages and prompt_embeds")
    stray = None if "messages" in prompt else next((key for key in (*CHAT_KEYS, *REPLY_KEYS) if key in prompt), None)
    if stray is not None:
        raise InputError(f"prompt key {stray!r} goes with messages only")
    return prompt


def _rendered(at: int, fields: Mapping[str, Any], tokenizer: Tokenizer | None) -> _Text:
    messages = fields["messages"]
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(f"messages must be a list of mappings, not {messages!r:.80}")
    hf = _needed(tokenizer, "messages").hf
    given = {key: fields[key] for key in CHAT_KEYS if fields.get(key) is not None}
    options = ChatOptions(**given)
    reasoning, tools = (fields.get(key) for key in REPLY_KEYS)
    parses = reasoning is not None or tools is not None
    chat = render_chat(hf, messages, options, beginning=parses)
    reply = reply_format(hf, reasoning, tools, options, chat) if parses else None
    return _Text(at, fields, chat.text, reply)


def _token_ids(fields: Mapping[str, Any]) -> list[int]:
    given = fields["prompt_token_ids"]
    if isinstance(given, (str, bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise InputError(f"a prompt must be text, a list of token ids or a mapping, not {given!r:.80}")
    ids = list(given)
    if set(map(type, ids)) <= {int}:  # a million ids are looked at in 20 ms; one by one it takes a second
        return ids
    wrong = next((x for x in ids if isinstance(x, bool) or not isinstance(x, Integral)), None)
    if wrong is not None:
        raise InputError(f"prompt_token_ids must be integers, found {wrong!r:.80}")
    return [int(x) for x in ids]  # NumPy's


def _embedded(fields: Mapping[str, Any]) -> Input:
    from engine.text.prompt_embeds import read_embeds

    embeds = read_embeds(fields["prompt_embeds"])
    return replace(_input(fields, [0] * len(embeds), _text_beside(fields)), embeds=embeds)


def _text_beside(fields: Mapping[str, Any]) -> str | None:
    """The text that a caller says token ids or embeddings are."""
    text = fields.get("prompt")
    if text is not None and not isinstance(text, str):
        raise InputError(f"prompt beside prompt_token_ids or prompt_embeds must be their text, not {text!r:.80}")
    return text


def _encode(texts: list[Any], tokenizer: Tokenizer | None, special: bool) -> list[list[int] | InputError]:
    """Tokenize texts together; if that fails, one by one, to find which of them is at fault."""
    if not texts:
        return []
    try:
        return list(_needed(tokenizer, "a text prompt").encode_batch(texts, special))
    except ValueError:
        return [_encode_one(text, tokenizer, special) for text in texts]


def _encode_one(text: Any, tokenizer: Tokenizer | None, special: bool) -> list[int] | InputError:
    try:
        return _needed(tokenizer, "a text prompt").encode(text, special)
    except ValueError as error:
        return InputError(str(error))


def _checked(item: _Text, ids: list[int], ends: tuple[int, int]) -> Input | InputError:
    try:
        return replace(_input(item.fields, ids, item.text), ends=ends, reply=item.reply)
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


__all__ = ["ChatTemplateError", "Input", "InputError", "read_inputs"]
