"""Where a completion ends, on the real model: every field that decides it counts."""

from __future__ import annotations

import pytest

from engine import LLM, CompletionOutput, SamplingParams
from tests.engine.ask import SMOLLM, complete, greedy


@pytest.fixture(scope="module")
def plain(smol: LLM) -> CompletionOutput:
    """What LIST goes on with, greedily and without a stop."""
    return complete(smol, ignore_eos=True)


def test_max_tokens_and_its_finish_reason(smol: LLM, plain: CompletionOutput) -> None:
    short = complete(smol, max_tokens=3)
    assert short.token_ids == plain.token_ids[:3]
    assert (short.finish_reason, short.stop_reason) == ("length", None)
    assert SamplingParams().max_tokens == 16


def test_max_tokens_none_runs_to_the_models_end() -> None:
    with LLM(SMOLLM, load_format="dummy", hf_overrides={"num_hidden_layers": 1}, max_model_len=40) as short:
        one = complete(short, {"prompt_token_ids": [1] * 30}, max_tokens=None, ignore_eos=True)
    assert (len(one.token_ids), one.finish_reason) == (10, "length")


def test_end_of_sequence_stops_and_stays_out_of_the_text(smol: LLM) -> None:
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    (ended,) = smol.chat(messages, greedy(max_tokens=40), use_tqdm=False)
    one = ended.outputs[0]
    assert (one.finish_reason, one.stop_reason) == ("stop", None)
    assert one.token_ids[-1] == 2
    assert "Paris" in one.text
    assert "<|im_end|>" not in one.text
    ids = {"prompt_token_ids": ended.prompt_token_ids}
    named = complete(smol, ids, max_tokens=40, stop_token_ids=[2])
    assert (named.token_ids, named.stop_reason) == (one.token_ids, None), "as without naming it"
    asked = complete(smol, ids, max_tokens=40, stop_token_ids=[2], ignore_eos=True)
    assert (asked.token_ids, asked.stop_reason) == (one.token_ids, 2)
    more = complete(smol, ids, max_tokens=len(one.token_ids) + 2, ignore_eos=True)
    assert more.token_ids[: len(one.token_ids)] == one.token_ids
    assert more.finish_reason == "length"
    least = complete(smol, ids, max_tokens=40, min_tokens=len(one.token_ids) + 2)
    assert len(least.token_ids) >= len(one.token_ids) + 2
    assert 2 not in least.token_ids[: len(one.token_ids) + 2], "end ids are masked until then"
    kept = complete(smol, ids, max_tokens=40, include_stop_str_in_output=True, skip_special_tokens=False)
    assert kept.text == one.text + "<|im_end|>"


def test_special_tokens_are_skipped_only_where_asked(smol: LLM) -> None:
    """With ignore_eos the end token stands inside the text."""
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    texts = [
        smol.chat(messages, greedy(max_tokens=24, ignore_eos=True, skip_special_tokens=skip), use_tqdm=False)[0]
        .outputs[0]
        .text
        for skip in (True, False)
    ]
    assert "<|im_end|>" not in texts[0]
    assert "<|im_end|>" in texts[1]


def test_stop_token_ids(smol: LLM, plain: CompletionOutput) -> None:
    stop = plain.token_ids[4]
    one = complete(smol, stop_token_ids=[stop])
    end = plain.token_ids.index(stop) + 1
    assert one.token_ids == plain.token_ids[:end]
    assert (one.finish_reason, one.stop_reason) == ("stop", stop)
    tokenizer = smol.get_tokenizer()
    assert one.text == tokenizer.decode(plain.token_ids[: end - 1])
    kept = complete(smol, stop_token_ids=[stop], include_stop_str_in_output=True)
    assert kept.text == tokenizer.decode(plain.token_ids[:end])


@pytest.mark.parametrize("include", [False, True])
def test_stop_string_across_tokens(smol: LLM, plain: CompletionOutput, include: bool) -> None:
    pieces = [smol.get_tokenizer().decode([token]) for token in plain.token_ids]
    stop = pieces[2][-1:] + pieces[3] + pieces[4][:1]
    at = plain.text.index(stop)
    one = complete(smol, stop=["never in the text", stop], include_stop_str_in_output=include)
    assert one.text == plain.text[: at + (len(stop) if include else 0)]
    assert (one.finish_reason, one.stop_reason) == ("stop", stop)
    assert one.token_ids == plain.token_ids[: len(one.token_ids)]
    assert len(one.token_ids) <= 5, "tokens that formed the stop string stay, no later ones come"


def test_stop_string_counts_only_beyond_min_tokens(smol: LLM, plain: CompletionOutput) -> None:
    stop = ","
    early, late = complete(smol, stop=stop), complete(smol, stop=stop, min_tokens=6)
    assert len(early.token_ids) < 6 < len(late.token_ids)
    assert late.text == plain.text[: len(late.text)]
    assert late.text.count(",") >= 1


def test_stop_string_in_the_last_token(smol: LLM, plain: CompletionOutput) -> None:
    """The end by length and the stop string come with the same token: the stop string counts."""
    last = smol.get_tokenizer().decode(plain.token_ids[:3])[-1]
    count = next(i for i in range(1, 13) if last in smol.get_tokenizer().decode(plain.token_ids[:i]))
    one = complete(smol, stop=last, max_tokens=count)
    assert (one.finish_reason, one.stop_reason) == ("stop", last)


def test_detokenize_off(smol: LLM, plain: CompletionOutput) -> None:
    one = complete(smol, detokenize=False, ignore_eos=True)
    assert (one.text, one.token_ids) == ("", plain.token_ids)
