"""Beam search against transformers, and against every continuation of a tiny model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import LLM, SamplingParams
from engine.params import BeamSearchParams
from engine.text.inputs import InputError
from tests.engine.ask import outputs

PROMPTS = ["The capital of France is", "Once upon a time", "The three primary colours are", "1, 2, 3,"]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_equals_transformers(smol: LLM, reference: Any, width: int) -> None:
    tokenizer = smol.get_tokenizer()
    found = smol.beam_search(PROMPTS, BeamSearchParams(beam_width=width, max_tokens=10, ignore_eos=True))
    for prompt, output in zip(PROMPTS, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        expected = reference.generate(
            ids, num_beams=width, num_return_sequences=width, max_new_tokens=10, do_sample=False, eos_token_id=None,
            pad_token_id=0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        best = output.sequences[0]
        assert list(best.tokens) == expected.sequences[0].tolist()
        assert list(output.prompt_token_ids) == ids[0].tolist()
        assert best.text == tokenizer.decode(expected.sequences[0])
        if width > 1:
            scores = [score * 10 for score in expected.sequences_scores.tolist()]  # its length is that of the output
            assert [one.cum_logprob for one in output.sequences] == pytest.approx(scores, abs=2e-3)
        assert all(len(one.logprobs) == 10 and one.finish_reason == "length" for one in output.sequences)


def test_ends_and_length_penalty_against_its_own_sums(smol: LLM) -> None:
    prompt = smol.get_tokenizer().apply_chat_template(
        [{"role": "user", "content": "Say yes."}], add_generation_prompt=True, return_dict=False
    )
    results = {
        penalty: smol.beam_search(
            {"prompt_token_ids": prompt}, BeamSearchParams(beam_width=4, max_tokens=8, length_penalty=penalty)
        )[0]
        for penalty in (0.0, 1.0, 3.0)
    }
    for penalty, output in results.items():
        assert len(output.sequences) == 4
        scores = [one.score for one in output.sequences]
        assert scores == sorted(scores, reverse=True)
        for one in output.sequences:
            ended = one.tokens[-1] == 2
            assert (one.finish_reason == "stop") == ended
            assert one.score == pytest.approx(one.cum_logprob / (len(one.tokens) - ended) ** penalty)
            new = one.tokens[len(prompt) :]
            chosen = [step[token].logprob for step, token in zip(one.logprobs, new, strict=True)]
            assert one.cum_logprob == pytest.approx(sum(chosen))
            assert all(len(step) == 8 for step in one.logprobs)
            assert "<|im_end|>" not in (one.text or "")
    assert any(one.finish_reason == "stop" for one in results[1.0].sequences)
    lengths = {penalty: len(output.sequences[0].tokens) for penalty, output in results.items()}
    assert lengths[3.0] >= lengths[0.0]
    assert results[0.0].sequences != results[3.0].sequences


def test_prompts_together_equal_prompts_alone_and_share_blocks(smol: LLM, prompts: list[list[int]]) -> None:
    items: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts[16:22]]
    params = BeamSearchParams(beam_width=3, max_tokens=6)
    smol.reset_prefix_cache()
    before = smol.stats()
    together = smol.beam_search(items, params)
    after = smol.stats()
    alone = [smol.beam_search(item, params)[0] for item in items]
    assert [o.sequences for o in together] == [o.sequences for o in alone]
    assert [o.sequences for o in smol.beam_search(items, params, concurrency_limit=4)] == [o.sequences for o in alone]
    longest = sum(len(prompt) for prompt in prompts[16:22])
    computed = after.computed_tokens - before.computed_tokens
    assert computed < longest + len(items) * 3 * 5 * 17, "a beam computes what is beyond its last whole block"
    assert after.steps - before.steps <= 6 + longest // 512 + 3


def test_bad_prompts_and_the_models_end(smol: LLM) -> None:
    params = BeamSearchParams(beam_width=2, max_tokens=3)
    good, empty = smol.beam_search(["Hello", ""], params)
    assert good.error is None
    assert len(good.sequences) == 2
    assert "empty" in (empty.error or "")
    assert not empty.sequences
    with pytest.raises(InputError, match="empty"):
        smol.beam_search([""], params, on_error="raise")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 7,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 12,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with LLM(str(folder), load_format="dummy", skip_tokenizer_init=True, dtype="float32") as llm:
        yield llm


def every_continuation(llm: LLM, prompt: list[int], length: int, temperature: float) -> dict[tuple[int, ...], float]:
    """The summed log-probability of each sequence of ``length`` tokens, or fewer up to an end."""
    prefixes = [p for n in range(length) for p in itertools.product([t for t in range(7) if t != 1], repeat=n)]
    found = outputs(
        llm,
        [{"prompt_token_ids": [*prompt, *prefix]} for prefix in prefixes],
        SamplingParams(temperature=0, max_tokens=1, logprobs=-1),
    )
    sums: dict[tuple[int, ...], float] = {(): 0.0}
    whole: dict[tuple[int, ...], float] = {}
    for prefix, output in zip(prefixes, found, strict=True):
        raw = torch.tensor([(output.outputs[0].logprobs or ())[0][token].logprob for token in range(7)])
        steps = (raw / (temperature or 1)).log_softmax(-1).tolist()
        for token in range(7):
            target = whole if token == 1 or len(prefix) == length - 1 else sums
            target[*prefix, token] = sums[prefix] + steps[token]
    return whole


@pytest.mark.parametrize(("penalty", "temperature"), [(1.0, 0.0), (0.0, 0.0), (2.0, 0.0), (1.0, 0.5), (1.0, 2.0)])
def test_wide_search_finds_the_best_of_all(tiny: LLM, penalty: float, temperature: float) -> None:
    prompt = [3, 4]
    whole = every_continuation(tiny, prompt, 3, temperature)
    assert math.fsum(math.exp(value) for value in whole.values()) == pytest.approx(1, abs=1e-4)
    params = BeamSearchParams(beam_width=40, max_tokens=3, length_penalty=penalty, temperature=temperature)
    (found,) = tiny.beam_search({"prompt_token_ids": prompt}, params)

    def score(tokens: tuple[int, ...]) -> float:
        length: float = (len(prompt) + len(tokens) - (tokens[-1] == 1)) ** penalty
        return whole[tokens] / length

    expected = sorted(whole, key=score, reverse=True)[:40]
    got = [tuple(one.tokens[2:]) for one in found.sequences]
    assert [score(tokens) for tokens in got] == pytest.approx([score(tokens) for tokens in expected], abs=1e-4)
    assert got[0] == expected[0]
    assert found.sequences[0].text is None


def test_search_stops_at_the_models_length(tiny: LLM) -> None:
    (found,) = tiny.beam_search(
        {"prompt_token_ids": [3] * 9}, BeamSearchParams(beam_width=2, max_tokens=50, ignore_eos=True)
    )
    assert [len(one.tokens) for one in found.sequences] == [12, 12]
