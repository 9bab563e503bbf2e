"""Bad words as sequences of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from engine.text.inputs import InputError
from engine.text.tokenizer import TextError, Tokenizer

REMEMBERED = 64  # lists of words; requests of one run mostly share theirs

Sequences = tuple[tuple[int, ...], ...]


class BadWords:
    """Tokenizes lists of bad words, each list once while it is in use."""

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._remembered = lru_cache(REMEMBERED)(self._tokenize)

    def sequences(self, words: Sequence[str]) -> Sequences:
        """Each word as token ids, as it stands and, where that is another word of as many tokens, after a space.

        The same sequences as vLLM's.

        Raises:
            InputError: there is no tokenizer, or it cannot write a word in the model's tokens.
        """
        return self._remembered(tuple(words)) if words else ()

    def _tokenize(self, words: tuple[str, ...]) -> Sequences:
        if self._tokenizer is None:
            raise InputError("bad_words need a tokenizer, but skip_tokenizer_init is set: use logit_bias of -100")
        sequences: list[tuple[int, ...]] = []
        for word in words:
            text = word.lstrip()
            try:
                bare, spaced = self._tokenizer.encode_batch([text, f" {text}"], add_special_tokens=False)
            except TextError as error:
                raise InputError(f"bad_words {word!r}: {error}") from None
            if not bare:
                raise InputError(f"bad_words {word!r} is no token of this tokenizer")
            sequences.append(tuple(bare))
            if len(spaced) == len(bare) and spaced[0] != bare[0]:
                sequences.append(tuple(spaced))
            self._check(word, [*bare, *spaced])
        return tuple(sequences)

    def _check(self, word: str, ids: Sequence[int]) -> None:
        wrong = next((x for x in ids if x >= self._vocab_size), None)
        if wrong is not None:
            raise InputError(
                f"bad_words {word!r} has token id {wrong}: the model's ids go from 0 to {self._vocab_size - 1}"
            )
