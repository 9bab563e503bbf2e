"""What is made of outputs before callers get them: messages of chats, and the outputs of refused prompts."""

from __future__ import annotations

from dataclasses import replace

from engine.message import ChatMessage
from engine.outputs import CompletionOutput, Embedding, EmbeddingRequestOutput, RequestOutput
from engine.params import SamplingParams
from engine.text.inputs import Input, InputError
from engine.text.reply import ReplyFormat, parse_reply
from engine.text.tokenizer import Tokenizer


def refused(
    request_id: str, read: Input | InputError, error: str, embeds: bool
) -> RequestOutput | EmbeddingRequestOutput:
    """The output of a prompt that cannot be run, as far as it has been read; ``embeds``: by a pooling model."""
    text, ids = (read.text, list(read.token_ids)) if isinstance(read, Input) else (None, [])
    if embeds:
        return EmbeddingRequestOutput(request_id, Embedding([]), ids, error=error)
    return RequestOutput(request_id, text, ids, [], error=error)


def with_messages(
    output: RequestOutput, reply: ReplyFormat, params: SamplingParams, tokenizer: Tokenizer
) -> RequestOutput:
    """The same output, each completion with its ``message``."""
    parsed = [replace(one, message=_message(one, reply, params, tokenizer)) for one in output.outputs]
    return replace(output, outputs=parsed)


def _message(one: CompletionOutput, reply: ReplyFormat, params: SamplingParams, tokenizer: Tokenizer) -> ChatMessage:
    """Marks are special tokens in some vocabularies, which the text leaves out: there it is written anew with them."""
    text = _marked(one, params, tokenizer) if params.skip_special_tokens else one.text
    message = parse_reply(text, reply)
    if text == one.text:
        return message
    return replace(
        message,
        content=_without_special(message.content, tokenizer),
        reasoning=_without_special(message.reasoning, tokenizer),
    )


def _marked(one: CompletionOutput, params: SamplingParams, tokenizer: Tokenizer) -> str:
    """The completion's text with special tokens, without the token or string that stopped it."""
    if not tokenizer.special_ids.intersection(one.token_ids[:-1]):
        return one.text
    by_token = one.finish_reason == "stop" and not isinstance(one.stop_reason, str)
    text = tokenizer.decode(one.token_ids[:-1] if by_token else one.token_ids, skip_special_tokens=False)
    if isinstance(one.stop_reason, str) and not params.include_stop_str_in_output:
        at = text.rfind(one.stop_reason)
        text = text if at < 0 else text[:at]
    return text


def _without_special(text: str | None, tokenizer: Tokenizer) -> str | None:
    if text is None:
        return None
    for token_id in tokenizer.special_ids:
        text = text.replace(tokenizer.token_text(token_id), "")
    return text or None
