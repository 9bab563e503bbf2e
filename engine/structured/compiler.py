"""Compiles grammars for one tokenizer, off the engine's thread, and keeps them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.params import StructuredOutputsParams
from engine.structured.matcher import Matcher, one_line
from engine.structured.source import grammar_source
from engine.text.inputs import InputError
from engine.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 256  # compiled grammars kept; one takes from some kB to some MB
UNUSABLE = (ValueError, TypeError, RecursionError)  # of schemas that are circular, no JSON, or nested too deeply


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar; each completion follows it with a matcher of its own."""

    beginning: LLMatcher
    never: frozenset[int]  # tokens that the library may allow, and that are no text or not the model's
    words: int

    def start(self, end_ids: Collection[int]) -> Matcher:
        """A matcher at the beginning, whose output ends with one of ``end_ids``."""
        ends = frozenset(end_ids)
        return Matcher(self.beginning.deep_copy(), ends, self.never - ends, self.words)


class GrammarCompiler:
    """Grammars of one tokenizer, the most recently used ones kept.

    One thread of its own compiles; the library leaves Python's lock alone while it does. Its methods are called from
    one thread.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, vocab_size: int, eos_ids: Collection[int], kept: int = KEPT
    ) -> None:
        """Compile for a model with ``vocab_size`` token ids; nothing is loaded before the first grammar."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._kept = kept
        self._grammars: OrderedDict[tuple[str, ...], Future[Grammar]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "grammars")

    def prepare(self, wanted: Iterable[StructuredOutputsParams | None]) -> None:
        """Begin to compile what will be asked for; errors show when it is."""
        if self._tokenizer is not None:
            for one in wanted:
                if one is not None:
                    self._begin(one)

    def compile(self, wanted: StructuredOutputsParams, end_ids: Collection[int]) -> Future[Grammar]:
        """The grammar, which may have been compiled before, for an output that ``end_ids`` can end.

        The future's error is an ``InputError`` where it cannot be compiled or nothing fits it; the message names what
        is at fault.

        Raises:
            InputError: nothing can be compiled for this model, or nothing can end the output.
        """
        if self._tokenizer is None:
            raise InputError("structured_outputs needs a tokenizer, but skip_tokenizer_init is set")
        if not end_ids:
            raise InputError(
                "structured_outputs needs a token that ends the output: this model has none, so give stop_token_ids"
            )
        return self._begin(wanted)

    def _begin(self, wanted: StructuredOutputsParams) -> Future[Grammar]:
        try:
            key = _key(wanted)
        except UNUSABLE as error:
            failed: Future[Grammar] = Future()
            failed.set_exception(InputError(f"structured_outputs.{wanted.kind} cannot be used: {error}"))
            return failed
        found = self._grammars.get(key)
        if found is None:
            found = self._grammars[key] = self._thread.submit(self._compile, wanted)
            while len(self._grammars) > self._kept:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(key)
        return found

    def _compile(self, wanted: StructuredOutputsParams) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        kind = f"structured_outputs.{wanted.kind}"
        try:
            source = grammar_source(wanted)
        except InputError:
            raise
        except UNUSABLE as error:
            raise InputError(f"{kind} cannot be used: {error}") from None
        beginning = LLMatcher(self._tokens, source, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if beginning.is_error():
            raise InputError(f"{kind} cannot be used: {one_line(beginning.get_error())}")
        size = self._tokens.vocab_size
        never = frozenset(self._tokens.eos_tokens).union(range(self._vocab_size, size))
        grammar = Grammar(beginning, never, -(-size // 32))
        first = grammar.start(self._tokens.eos_tokens)
        first.fill(np.zeros(grammar.words, np.int32))
        if first.error is not None:
            raise InputError(f"{kind} cannot be used: no text fits it ({first.error})")
        return grammar

    @cached_property
    def _tokens(self) -> LLTokenizer:
        """The vocabulary in the library's form; takes most of a second."""
        from llguidance import LLTokenizer

        assert self._tokenizer is not None
        backend = getattr(self._tokenizer.hf, "backend_tokenizer", None)
        if backend is None:
            raise InputError("structured_outputs needs a tokenizer of the tokenizers library, which this model has not")
        size = max(self._vocab_size, self._tokenizer.vocab_size)
        try:
            return LLTokenizer(backend.to_str(), n_vocab=size, eos_token=self._eos_ids or None)
        except ValueError as error:
            raise InputError(f"structured_outputs cannot be used with this model's tokenizer: {error}") from None


def _key(wanted: StructuredOutputsParams) -> tuple[str, ...]:
    """What decides the compiled grammar. Order within a schema counts: properties come in it."""
    value = getattr(wanted, wanted.kind)
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    options = (wanted.disable_any_whitespace, wanted.disable_additional_properties, wanted.whitespace_pattern)
    return (wanted.kind, type(value).__name__, text, *map(repr, options))
