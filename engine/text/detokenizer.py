"""Token ids to text while they arrive: nothing that was given out is ever taken back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """The text of one output, token by token, in amortised constant time per token.

    All pieces together, ``flush`` included, equal ``tokenizer.decode(output_ids, skip_special_tokens,
    spaces_between_special_tokens, prompt_ids)``.

    Args:
        tokenizer: the model's tokenizer.
        prompt_ids: the tokens before the output; only some tokenizers need them (see ``Tokenizer.decode``).
        skip_special_tokens: leave special tokens out of the text.
        spaces_between_special_tokens: keep the space that some tokenizers write between adjacent added tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._stream: _ByteStream | _WindowStream
        if tokenizer.is_byte_level:
            self._stream = _ByteStream(tokenizer, skip_special_tokens)
        else:
            joined = skip_special_tokens or spaces_between_special_tokens
            self._stream = _WindowStream(tokenizer, prompt_ids, skip_special_tokens, joined)

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes; empty while it ends in the middle of a character."""
        return self._stream.push(token_id)

    def flush(self) -> str:
        """What is still held back, once no token follows; bytes that form no character become U+FFFD."""
        return self._stream.flush()


class _ByteStream:
    """Byte-level tokenizers: the text is the tokens' bytes, decoded as UTF-8."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._skipped: frozenset[int] = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return "" if token_id in self._skipped else self._decoder.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowStream:
    """Any other tokenizer: decode a short window with and without the new tokens, and give out the difference.

    The technique of Hugging Face's text-generation-inference: the window starts at the tokens of the piece given out
    last, so that a tokenizer that looks at a token's neighbour sees it.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special: bool, joined: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._skipped: frozenset[int] = tokenizer.special_ids if skip_special else frozenset()
        self._added: frozenset[int] = frozenset() if joined else tokenizer.added_ids
        self._window = tokenizer.context(prompt_ids)
        self._given = self._decode()  # the part of the window's text that is out already
        self._pending_from = len(self._window)

    def push(self, token_id: int) -> str:
        if token_id in self._skipped or not self._tokenizer.knows(token_id):
            return ""  # decoding drops it before anything else: its neighbours are neighbours of each other
        if token_id in self._added and self._window and self._window[-1] in self._added:
            piece = self.flush()
            self._window, self._given, self._pending_from = [], "", 0
            return piece + self.push(token_id)
        self._window.append(token_id)
        if self._tokenizer.is_byte_token(token_id):
            return ""  # whether a run of raw bytes is text or garbage shows only at its end
        text = self._decode()
        if len(text) <= len(self._given) or text.endswith(_REPLACEMENT):
            return ""
        piece = text[len(self._given) :]
        self._window = self._window[self._pending_from :]
        self._pending_from = len(self._window)
        self._given = self._decode()
        return piece

    def flush(self) -> str:
        text = self._decode()
        piece = text[len(self._given) :]
        self._given = text
        return piece

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, self._skip_special)
