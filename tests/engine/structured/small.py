"""A tokenizer of a few dozen characters, for grammars without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engine.params import StructuredOutputsParams
from engine.structured.compiler import GrammarCompiler
from engine.structured.matcher import Matcher
from engine.text.tokenizer import Tokenizer

CHARACTERS = 'abcdefghilmnopqrstuxy0123456789{}[]",:. -_<>/I'
MERGED = ["tr", "ue", "true", "fa", "ab", "12", '":']  # tokens of several characters
EOS, STOP = 0, 1


def tokenizer() -> Tokenizer:
    """Byte-level: ``<eos>``, ``<stop>``, the characters, and some longer tokens."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False)
    written = [alphabet.pre_tokenize_str(character)[0][0] for character in CHARACTERS]
    vocab = {text: i for i, text in enumerate(["<eos>", "<stop>", *written, *MERGED])}
    merges = [("t", "r"), ("u", "e"), ("tr", "ue"), ("f", "a"), ("a", "b"), ("1", "2"), ('"', ":")]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = alphabet
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<stop>"])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>"))


def compiler(vocab_size: int | None = None, **fields: Any) -> GrammarCompiler:
    """A compiler for the small vocabulary, which the model's table may differ from."""
    small = tokenizer()
    return GrammarCompiler(small, small.vocab_size if vocab_size is None else vocab_size, {EOS}, **fields)


def start(grammars: GrammarCompiler, ends: frozenset[int] = frozenset({EOS}), **fields: Any) -> Matcher:
    """A matcher at the beginning of what ``fields`` of ``StructuredOutputsParams`` ask for."""
    return grammars.compile(StructuredOutputsParams(**fields), ends).result().start(ends)


def allowed(matcher: Matcher) -> list[int]:
    """The tokens that may come next."""
    row = np.full(matcher.words, 0x55555555, np.int32)  # what stood there before must not matter
    matcher.fill(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    ids: list[int] = np.flatnonzero(bits).tolist()
    return ids
