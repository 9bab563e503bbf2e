"""Compare libraries for structured outputs on one tokenizer: ``python benchmarks/grammar_libraries.py``.

Both libraries get the same random JSON schemas. For each: the time to compile, the time to make a mask, and what
random walks over the allowed tokens end in (walks need no model: a mask must be right whatever the model prefers).
Conversely, valid instances of the schema are fed to the matcher, which should accept them. xgrammar is not among the
project's dependencies: install it by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis_jsonschema import from_schema
from jsonschema import Draft202012Validator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.random_schemas import Schema, random_schemas
from engine.model.files import resolve_model
from engine.structured.schema import prepared
from engine.text.tokenizer import Tokenizer, load_tokenizer

MOST = 600  # tokens of a walk
WALKS = 3


class Matcher(Protocol):
    """One output in one library."""

    def mask(self) -> np.ndarray:
        """Allowed tokens, bool [vocab]."""

    def advance(self, token: int) -> bool:
        """Take a token; False where it is not allowed."""

    def complete(self) -> bool:
        """Whether the output may end here."""


class Guidance:
    """llguidance, with schemas as the engine hands them over."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import llguidance

        backend, eos = tokenizer.hf.backend_tokenizer.to_str(), tokenizer.eos_token_id
        self.vocab = tokenizer.vocab_size
        self._library = llguidance
        self._tokens = llguidance.LLTokenizer(backend, n_vocab=self.vocab, eos_token=eos)

    def compile(self, schema: Schema) -> Any:
        text = self._library.LLMatcher.grammar_from_json_schema(json.dumps(prepared(schema, closed=False)))
        matcher = self._library.LLMatcher(self._tokens, text, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, compiled: Any) -> Matcher:
        return _GuidanceMatcher(compiled.deep_copy(), self.vocab)


class _GuidanceMatcher:
    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab
        self._bits = np.zeros(-(-vocab // 32), np.int32)

    def fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)

    def mask(self) -> np.ndarray:
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocab].astype(bool)

    def advance(self, token: int) -> bool:
        return bool(self._matcher.try_consume_tokens([token]) == 1)

    def complete(self) -> bool:
        return bool(self._matcher.is_accepting())


class XGrammar:
    """xgrammar; ``any_order`` lets properties come in any order, which llguidance does not offer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import xgrammar

        self.vocab = tokenizer.vocab_size
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer.hf, vocab_size=self.vocab, stop_token_ids=[tokenizer.eos_token_id]
        )
        self._library = xgrammar
        self._compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)

    def compile(self, schema: Schema) -> Any:
        return self._compiler.compile_json_schema(schema, strict_mode=False)

    def start(self, compiled: Any) -> Matcher:
        return _XGrammarMatcher(self._library, compiled, self.vocab)


class _XGrammarMatcher:
    def __init__(self, library: Any, compiled: Any, vocab: int) -> None:
        self._matcher, self._vocab = library.GrammarMatcher(compiled), vocab
        self._bits = library.allocate_token_bitmask(1, vocab)

    def fill(self) -> None:
        self._bits.fill_(-1)
        self._matcher.fill_next_token_bitmask(self._bits)

    def mask(self) -> np.ndarray:
        return np.unpackbits(self._bits.numpy()[0].view(np.uint8), bitorder="little")[: self._vocab].astype(bool)

    def advance(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def complete(self) -> bool:
        return bool(self._matcher.is_completed())


@dataclass
class Tally:
    """What a library did with the schemas."""

    compile_ms: list[float] = field(default_factory=list)
    mask_us: list[float] = field(default_factory=list)
    advance_us: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    invalid: list[tuple[Schema, str]] = field(default_factory=list)
    rejected: list[tuple[Schema, str]] = field(default_factory=list)
    accepted: int = 0
    failed: list[tuple[Schema, str]] = field(default_factory=list)


def measure(library: Any, tokenizer: Tokenizer, cases: list[tuple[Schema, list[Any]]]) -> Tally:
    """All schemas through one library; ``cases``: each schema with valid instances."""
    tally = Tally()
    easy = _closing_tokens(tokenizer)
    for number, (schema, instances) in enumerate(cases):
        start = time.perf_counter()
        try:
            compiled = library.compile(schema)
        except (ValueError, RuntimeError) as error:
            tally.refused[str(error).strip().splitlines()[0][:110]] += 1
            tally.failed.append((schema, str(error)))
            continue
        tally.compile_ms.append((time.perf_counter() - start) * 1e3)
        for walk in range(WALKS):
            text = _walk(library.start(compiled), tokenizer, easy, random.Random(1000 * number + walk), tally)
            _judge(schema, text, tally)
        for instance in instances:
            text = json.dumps(_in_order(instance, schema), ensure_ascii=False)
            tokens = tokenizer.encode(text, False)
            if tokenizer.decode(tokens) != text:
                continue  # the vocabulary lacks a byte of it
            matcher = library.start(compiled)
            if all(matcher.advance(token) for token in tokens) and matcher.complete():
                tally.accepted += 1
            else:
                tally.rejected.append((schema, text))
    return tally


def _walk(matcher: Any, tokenizer: Tokenizer, easy: np.ndarray, draws: random.Random, tally: Tally) -> str | None:
    """Take allowed tokens at random, those that close something more often; None where the walk does not end."""
    taken: list[int] = []
    for _ in range(MOST):
        start = time.perf_counter()
        matcher.fill()
        tally.mask_us.append((time.perf_counter() - start) * 1e6)
        allowed = matcher.mask()
        if allowed[tokenizer.eos_token_id] and (allowed.sum() == 1 or draws.random() < 0.5):
            return tokenizer.decode(taken, skip_special_tokens=False)
        allowed[tokenizer.eos_token_id] = False
        narrow = np.flatnonzero(allowed & easy)
        choices = narrow if len(narrow) and draws.random() < 0.8 else np.flatnonzero(allowed)
        if not len(choices):
            return "dead end: " + tokenizer.decode(taken, skip_special_tokens=False)
        token = int(draws.choice(choices))
        start = time.perf_counter()
        assert matcher.advance(token), (tokenizer.decode(taken), token)
        tally.advance_us.append((time.perf_counter() - start) * 1e6)
        taken.append(token)
    return None


def _judge(schema: Schema, text: str | None, tally: Tally) -> None:
    if text is None:
        tally.ends["not ended"] += 1
        return
    try:
        valid = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(
            json.loads(text)
        )
    except ValueError:
        valid = False
    tally.ends["valid" if valid else "invalid"] += 1
    if not valid:
        tally.invalid.append((schema, text))


def _validator(schema: Schema) -> Draft202012Validator:
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _closing_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """Tokens of closing brackets, quotes, commas, digits and small letters: bool [vocab]."""
    wanted = set('}]",:ab019-')
    return np.array([set(tokenizer.token_text(i)) <= wanted and i > 16 for i in range(tokenizer.vocab_size)])


def _in_order(value: Any, schema: Any) -> Any:
    """The value with properties in their schema's order, in which both libraries want them."""
    if isinstance(value, list):
        prefix, rest = schema.get("prefixItems", []), schema.get("items", {})
        return [_in_order(v, prefix[i] if i < len(prefix) else rest or {}) for i, v in enumerate(value)]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        names = [name for name in known if name in value] + [name for name in value if name not in known]
        return {name: _in_order(value[name], known.get(name) or {}) for name in names}
    return value


def instances_of(schema: Schema, count: int = 3) -> list[Any]:
    """Values that hypothesis-jsonschema finds for a schema; empty where there is none."""
    found: list[Any] = []

    @seed(0)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(from_schema(schema))
    def draw(value: Any) -> None:
        if _validator(schema).is_valid(value):
            found.append(value)

    try:
        draw()
    except Exception as error:  # hypothesis has one exception for every way of not finding anything
        print(f"no instances of {json.dumps(schema):.100}: {type(error).__name__}", file=sys.stderr)
    return found


def _print(name: str, tally: Tally, total: int) -> None:
    def times(values: list[float], unit: str) -> str:
        ordered = sorted(values)
        at = ordered[int(0.99 * (len(ordered) - 1))]
        return f"{statistics.median(values):.1f} / {at:.1f} / {ordered[-1]:.0f} {unit}"

    print(f"\n## {name}: {total - tally.refused.total()} of {total} schemas compiled")
    print("compile, median / p99 / most:", times(tally.compile_ms, "ms"))
    print("mask, median / p99 / most:", times(tally.mask_us, "us"), f"mean {statistics.mean(tally.mask_us):.0f}")
    print("advance, median / p99 / most:", times(tally.advance_us, "us"))
    print("walks:", dict(tally.ends), f"instances: {tally.accepted} accepted, {len(tally.rejected)} rejected")
    for reason, count in tally.refused.most_common():
        print(f"  refused {count}: {reason}")
    for title, pairs in (("invalid", tally.invalid), ("rejected", tally.rejected)):
        for schema, text in pairs[:12]:
            print(f"  {title}: {json.dumps(schema, ensure_ascii=False):.260}\n      {text:.160}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = load_tokenizer(resolve_model(args.model))
    schemas = random_schemas(args.schemas, args.seed)
    cases = [(schema, instances_of(schema)) for schema in schemas]
    for name, kind in (("llguidance", Guidance), ("xgrammar", XGrammar)):
        start = time.perf_counter()
        library = kind(tokenizer)
        print(f"{name}: tokenizer read in {time.perf_counter() - start:.2f} s")
        _print(name, measure(library, tokenizer, cases), len(cases))


if __name__ == "__main__":
    main()
