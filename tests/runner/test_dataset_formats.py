"""ShareGPT exports, OpenAI batch files, and synthetic rows as a file."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.dataset import SyntheticDataset
from runner.dataset import sharegpt
from runner.dataset.materialize import SyntheticSource
from runner.noise import gamma, normal
from tests.runner.datasets import columns, errors, opened
from tests.runner.launch import NULL, only_run, records, succeed, write_rows


def talk(*texts: str, **others: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    return {"conversations": [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)], **others}


TALKS = [talk("q1", "a1", "q2", "a2", id="x"), talk("only a question", id="y"), talk("q", "a", "last", id="z")]


@pytest.mark.parametrize("form", ["array", "indented", "lines"])
def test_sharegpt_as_an_array_and_as_lines(tmp_path: Path, form: str) -> None:
    file = tmp_path / "talks.json"
    texts = {"array": json.dumps(TALKS), "indented": " \n" + json.dumps(TALKS, indent=2) + "\n"}
    file.write_text(texts.get(form) or "".join(json.dumps(one) + "\n" for one in TALKS))
    first, second, third = columns(opened(kind="sharegpt", path=str(file)))
    assert [turn["content"] for turn in first["messages"]] == ["q1", "a1", "q2"]
    assert (first["reference"], first["first_user"], first["first_answer"]) == ("a2", "q1", "a1")
    assert (first["turns"], first["id"]) == (4, "x")
    assert (second["reference"], second["first_answer"]) == (None, None)
    assert (third["reference"], third["first_answer"], len(third["messages"])) == (None, "a", 3)
    assert [row.id for row in opened(kind="sharegpt", path=str(file), id_column="id").iter_rows()] == ["x", "y", "z"]


def test_sharegpt_speakers_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    items = [
        {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "hello"},
                      {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
        talk(),
        {"id": 1}, 7, {"conversations": [{"from": "robot", "value": "x"}]}, {"conversations": [{"from": "human"}]},
    ]  # fmt: skip
    (tmp_path / "talks.json").write_text(json.dumps(items))
    dataset = opened(kind="sharegpt", path=str(tmp_path / "talks.json"))
    (row,) = columns(dataset)
    assert [turn["role"] for turn in row["messages"]] == ["system", "user"]
    found = errors(dataset)
    parts = ("no turn of a user", "no list of turns", "not a JSON object", "'robot' is not known", "must have texts")
    assert [part in error for part, error in zip(parts, found, strict=True)] == [True] * 5
    assert all(f"item {number}" in error for number, error in enumerate(found, 1))


@pytest.mark.parametrize("piece", [7, 64, 1 << 20])
def test_a_truncated_array_gives_what_is_whole(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharegpt, "PIECE", piece)
    file = tmp_path / "talks.json"
    whole = json.dumps(TALKS)
    for cut in (len(whole) - 1, len(whole) - 30, len(whole) // 2, 1):
        file.write_text(whole[:cut])
        dataset = opened(kind="sharegpt", path=str(file))
        found = columns(dataset)
        assert [row["id"] for row in found] == ["x", "y", "z"][: len(found)]
        (error,) = errors(dataset)
        assert f"item {len(found)} is not JSON" in error
        assert len(found) == {len(whole) - 1: 3, len(whole) - 30: 2}.get(cut, len(found))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=8), st.integers(1, 200))
def test_pieces_of_any_size_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], piece: int
) -> None:
    file = tmp_path_factory.mktemp("pieces") / "talks.json"
    file.write_text(json.dumps([talk(text, "a") for text in texts], ensure_ascii=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharegpt, "PIECE", piece)
        assert [row["first_user"] for row in columns(opened(kind="sharegpt", path=str(file)))] == texts


def request(name: str, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    prompt = {} if url != "/v1/chat/completions" else {"messages": [{"role": "user", "content": f"Hello {name}"}]}
    return {"custom_id": name, "method": "POST", "url": url, "body": {"model": "gpt-4o", **prompt, **body}}


def test_an_unusable_item_keeps_its_id(tmp_path: Path) -> None:
    items = [{"id": "a", "conversations": []}, {"conversations": [{"from": "alien", "value": "x"}]}, 7]
    write_rows(tmp_path / "talks.jsonl", items)
    for id_column, ids in (("id", ["a", None, None]), (None, [None, None, None])):
        dataset = opened(kind="sharegpt", path=str(tmp_path / "talks.jsonl"), id_column=id_column)
        assert [row.id for row in dataset.iter_rows()] == ids


def test_a_batch_requests_own_parameters_become_columns(tmp_path: Path) -> None:
    rows = [
        request("a", temperature=0.5, max_completion_tokens=7, stop=["x"], stream=False, user="me", seed=None),
        request("b", logprobs=True, top_logprobs=2, logit_bias={"5": 1.0}, response_format={"type": "json_object"}),
        request("c", url="/v1/completions", prompt="once", logprobs=3),
        request("d", tools=[{"type": "function"}]),
        request("e", stream=True),
        request("f", url="/v1/audio"),
        {"custom_id": "g", "url": "/v1/completions", "body": {}},
        request("a"),
    ]
    write_rows(tmp_path / "batch.jsonl", rows)
    dataset = opened(kind="openai_batch", path=str(tmp_path / "batch.jsonl"))
    a, b, c = columns(dataset)
    assert (a["temperature"], a["max_tokens"], a["stop"], a["seed"], a["top_p"]) == (0.5, 7, ["x"], None, None)
    assert (b["logprobs"], b["logit_bias"], b["structured_outputs"]) == (2, {5: 1.0}, {"json_object": True})
    assert (c["prompt"], c["logprobs"]) == ("once", 3)
    found = errors(dataset)
    assert "body.tools" in found[0]
    assert "body.stream=True" in found[1]
    assert "'/v1/audio'" in found[2]
    assert "no body.prompt" in found[3]
    assert "duplicate id 'a'" in found[4]


def test_a_batch_goes_in_and_comes_out_in_openais_format(tmp_path: Path) -> None:
    rows = [request("a", max_tokens=3, temperature=0), request("b", max_tokens=5, n=2), request("bad", tools=[1])]
    write_rows(tmp_path / "batch.jsonl", rows)
    succeed(tmp_path, "+recipe=openai_batch", *NULL, "dataset.path=batch.jsonl", "sampling.ignore_eos=true")
    path = only_run(tmp_path, "openai_batch")
    first, second = records(path / "batch_output.jsonl")
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("a", None, 200)
    body = first["response"]["body"]
    assert (body["object"], body["model"], body["usage"]["completion_tokens"]) == (
        "chat.completion",
        "smollm2-135m-instruct",
        3,
    )
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 3
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] == "length"
    assert [choice["index"] for choice in second["response"]["body"]["choices"]] == [0, 1]
    (error,) = records(path / "batch_errors.jsonl")
    assert (error["id"], error["custom_id"], error["response"]) == ("batch_req_bad", "bad", None)
    assert "body.tools" in error["error"]["message"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


LENGTHS = {
    "input_length": {"kind": "uniform", "min": 3, "max": 9},
    "output_length": {"kind": "lognormal", "mu": 3.0, "sigma": 0.5, "min": 2, "max": 90},
}


def test_synthetic_rows_never_change(cache: Path) -> None:
    """The digest is of the tokens themselves: another one would be another workload under the same name."""
    source = opened(kind="synthetic", rows=50, seed=7, shared_prefix=5, **LENGTHS).source
    assert source.fingerprint() == "83be8e8ebaab4dc113f0496158f6c260240fb74beacb49ab92ac5537f13a8696"


def test_synthetic_rows_are_kept_and_read_again(cache: Path) -> None:
    section = SyntheticDataset(rows=2500, **LENGTHS)  # type: ignore[arg-type]
    source = SyntheticSource(section)
    first, digest = list(source.read()), source.fingerprint()
    assert source.path.is_relative_to(cache)
    made = source.path.stat().st_mtime_ns
    again = SyntheticSource(section)
    assert (list(again.read()), again.fingerprint()) == (first, digest)
    assert source.path.stat().st_mtime_ns == made
    assert [path.name for path in source.path.parent.iterdir()] == [source.path.name]
    assert pq.read_metadata(source.path).num_row_groups == 3
    # rows come the same way where nothing can be kept
    cache.rename(cache.with_name("moved"))
    cache.write_text("in the way")
    drawn = SyntheticSource(section)
    assert (list(drawn.read()), drawn.fingerprint()) == (first, digest)


def test_a_limit_does_not_make_another_file(cache: Path) -> None:
    one, other = (SyntheticSource(SyntheticDataset(rows=9, limit=limit)) for limit in (None, 3))
    assert one.path == other.path
    assert SyntheticSource(SyntheticDataset(rows=9, seed=1)).path != one.path


def test_lengths_follow_their_distributions(cache: Path) -> None:
    found = columns(opened(kind="synthetic", rows=4000, max_token_id=50, **LENGTHS))
    sizes = [len(row["prompt_token_ids"]) for row in found]
    assert set(sizes) == set(range(3, 10))
    assert all(abs(sizes.count(size) - 4000 / 7) < 100 for size in range(3, 10))
    logs = [math.log(row["max_tokens"] + 0.5) for row in found]
    assert abs(sum(logs) / len(logs) - 3.0) < 0.05


def test_variates_have_their_moments() -> None:
    noise = random.Random(1)
    for draw, mean, variance in ((normal, 0, 1), (lambda n: gamma(n, 0.4), 0.4, 0.4), (lambda n: gamma(n, 3), 3, 3)):
        values = [draw(noise) for _ in range(40_000)]
        found = sum(values) / len(values)
        assert found == pytest.approx(mean, abs=0.03)
        assert sum((value - found) ** 2 for value in values) / len(values) == pytest.approx(variance, rel=0.05)
