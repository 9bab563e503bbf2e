"""Log-probabilities: their values, the mappings and flat arrays that give them, and the memory they take."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from engine import LLM, FlatLogprobs, Logprob
from engine.execute.logprobs import RowLogprobs
from engine.logprobs import PositionLogprobs, RawLogprobs
from tests.engine.ask import PROMPT, complete, greedy, outputs

VOCAB = 40


class Texts:
    """Names tokens, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def token_text(self, token_id: int) -> str:
        self.asked += 1
        return f"<{token_id}>"


def raw(logits: np.ndarray[Any, Any], tokens: list[int], counts: list[int]) -> list[RawLogprobs]:
    asking = dict(enumerate(counts))
    return list(RowLogprobs(torch.from_numpy(logits), torch.tensor(tokens), asking).by_row().values())


def reference(row: np.ndarray[Any, Any], token: int, count: int) -> dict[int, Logprob]:
    """vLLM's dict, in float64: the likeliest in order, then the chosen one with its rank among all."""
    exact = row.astype(np.float64)
    exact -= np.log(np.exp(exact).sum())
    order = np.argsort(-exact, kind="stable")[: len(row) if count < 0 else count].tolist()
    entries = {one: Logprob(exact[one], rank, f"<{one}>") for rank, one in enumerate(order, start=1)}
    return entries | ({} if token in entries else {token: Logprob(exact[token], 1 + int((exact > exact[token]).sum()))})


@pytest.mark.parametrize("count", [0, 1, 5, -1, 1000])
def test_values_ranks_and_order(count: int) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (70, VOCAB)).astype(np.float32)
    tokens = rng.integers(0, VOCAB, 70).tolist()
    for row, token, one in zip(logits, tokens, raw(logits, tokens, [count] * 70), strict=True):
        wanted, got = reference(row, token, count), PositionLogprobs(one, Texts())
        assert list(got) == list(wanted)
        assert len(got) == len(wanted)
        assert [entry.rank for entry in got.values()] == [entry.rank for entry in wanted.values()]
        values = [entry.logprob for entry in got.values()]
        assert values == pytest.approx([entry.logprob for entry in wanted.values()], abs=1e-5)
        assert (one.token, one.rank) == (token, reference(row, token, 0)[token].rank)
        assert one.logprob == pytest.approx(wanted[token].logprob, abs=1e-5)


def test_rows_do_not_depend_on_the_rows_and_counts_beside_them() -> None:
    """Also where many are equal, as in bfloat16."""
    rng = np.random.default_rng(4)
    logits = np.round(rng.normal(0, 2, (90, VOCAB))).astype(np.float32)
    tokens, counts = rng.integers(0, VOCAB, 90).tolist(), rng.choice([-1, 0, 1, 3, 17], 90).tolist()
    together = raw(logits, tokens, counts)
    for i, one in enumerate(together):
        (alone,) = raw(logits[i : i + 1], tokens[i : i + 1], counts[i : i + 1])
        assert (one.token, one.logprob, one.rank) == (alone.token, alone.logprob, alone.rank)
        assert np.array_equal(one.values, alone.values)
        assert (one.ids is None) == (alone.ids is None)
        if one.ids is not None and alone.ids is not None:
            assert one.ids.tolist() == alone.ids.tolist()
            order = np.argsort(-logits[i], kind="stable")[: counts[i]]
            assert one.ids.tolist() == order.tolist(), "equals by id"


def test_a_mapping_reads_like_a_dict() -> None:
    logits = np.array([[0.0, 3.0, 1.0, 2.0, 2.0]], np.float32)
    texts = Texts()
    (some,) = (PositionLogprobs(one, texts) for one in raw(logits, [0], [2]))
    assert list(some) == [1, 3, 0]
    assert some[0].rank == 5
    assert some[0].decoded_token == "<0>"
    assert texts.asked == 2, "text is made when it is read"
    assert 4 not in some
    assert "a" not in some
    with pytest.raises(KeyError):
        some[4]
    assert some.get(4) is None
    assert dict(some) == some == {**some}
    assert repr(some).startswith("{1: Logprob(logprob=-0.6")
    (whole,) = (PositionLogprobs(one, texts) for one in raw(logits, [0], [-1]))
    before = {token: whole[token] for token in range(5)}
    assert list(whole) == [1, 3, 4, 2, 0]
    assert {token: whole[token] for token in range(5)} == before == whole
    assert [entry.rank for entry in whole.values()] == [1, 2, 3, 4, 5]
    for token in (-1, 5):
        assert token not in whole
        with pytest.raises(KeyError):
            whole[token]


def flat(counts: list[int]) -> tuple[list[PositionLogprobs | None], FlatLogprobs]:
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 3, (len(counts), VOCAB)).astype(np.float32)
    texts = Texts()
    rows = raw(logits, rng.integers(0, VOCAB, len(counts)).tolist(), counts)
    positions = [None, *(PositionLogprobs(one, texts) for one in rows)]
    made = FlatLogprobs.of(positions)
    assert texts.asked == 0
    return positions, made


@pytest.mark.parametrize("counts", [[], [3], [0, 2, -1, 5, 1]], ids=str)
def test_flat_arrays_hold_the_same(counts: list[int]) -> None:
    positions, made = flat(counts)
    dicts = [dict(one) if one is not None else {} for one in positions]
    assert len(made) == len(dicts)
    assert list(made) == dicts
    assert [made[i] for i in range(-len(dicts), 0)] == dicts
    entries = [(token, entry) for one in dicts for token, entry in one.items()]
    assert made.token_ids.tolist() == [token for token, _ in entries]
    assert made.logprobs.tolist() == [entry.logprob for _, entry in entries]
    assert made.ranks.tolist() == [entry.rank for _, entry in entries]
    assert list(made.decoded_tokens) == [entry.decoded_token for _, entry in entries]
    assert (made.end_indices - made.start_indices).tolist() == [len(one) for one in dicts]
    for cut in (slice(None), slice(1, 3), slice(None, None, 2), slice(2, 1), slice(-2, None)):
        assert isinstance(made[cut], FlatLogprobs)
        assert list(made[cut]) == dicts[cut]
    with pytest.raises(IndexError):
        made[len(dicts)]


# On the real model


def test_flat_logprobs_hold_what_the_mappings_hold(smol: LLM) -> None:
    fields = {"logprobs": 3, "prompt_logprobs": 2, "max_tokens": 8, "temperature": 1.5, "seed": 4}
    (nested,), (flat,) = (outputs(smol, PROMPT, greedy(**fields, flat_logprobs=on)) for on in (False, True))
    assert nested.outputs[0].token_ids == flat.outputs[0].token_ids
    assert isinstance(flat.outputs[0].logprobs, FlatLogprobs)
    assert isinstance(flat.prompt_logprobs, FlatLogprobs)
    assert list(flat.outputs[0].logprobs) == [dict(one) for one in nested.outputs[0].logprobs or ()]
    assert list(flat.prompt_logprobs) == [dict(one or {}) for one in nested.prompt_logprobs or ()]
    assert flat.prompt_logprobs[0] == {}
    assert flat.outputs[0].cumulative_logprob == nested.outputs[0].cumulative_logprob
    ids = flat.outputs[0].logprobs.token_ids
    assert flat.outputs[0].logprobs.decoded_tokens[0] == smol.get_tokenizer().decode([int(ids[0])])


def test_whole_vocabulary_of_a_long_prompt_takes_four_bytes_per_entry(smol: LLM, articles: list[str]) -> None:
    """Python objects would take more than 100. The bound: the arrays, and 64 rows of them as they are made."""
    tokenizer, vocab, length = smol.get_tokenizer(), 49152, 500
    prompt = {"prompt_token_ids": tokenizer("\n\n".join(articles[:3]))["input_ids"][:length]}
    tracemalloc.start()
    try:
        (output,) = outputs(smol, prompt, greedy(max_tokens=2, prompt_logprobs=-1, logprobs=-1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = (length - 1 + 2) * vocab * 4
    assert kept <= peak < kept + 64 * vocab * 8 + (8 << 20)
    scored, completion = output.prompt_logprobs, output.outputs[0]
    assert scored is not None
    assert completion.logprobs is not None
    assert len(scored) == length
    for token, row in [(prompt["prompt_token_ids"][77], scored[77]), (completion.token_ids[1], completion.logprobs[1])]:
        assert row is not None
        assert len(row) == vocab
        assert sum(np.exp(entry.logprob) for entry in list(row.values())) == pytest.approx(1, abs=1e-4)
        assert row[token].decoded_token == tokenizer.decode([token])
    assert completion.logprobs[0][completion.token_ids[0]].rank == 1


def test_whole_vocabulary_agrees_with_the_likeliest(smol: LLM) -> None:
    whole, some = (complete(smol, PROMPT, logprobs=n, max_tokens=1).logprobs for n in (-1, 5))
    assert whole is not None
    assert some is not None
    assert list(whole[0].items())[:5] == list(some[0].items())
