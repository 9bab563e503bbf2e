"""Writes run folders as a real run leaves them, from a seeded simulation of continuous batching."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from engine.costs import Cost, StepGroups
from engine.stats import EngineStats, TimelinePoint
from runner import manifest
from runner.measure.ceilings import Ceilings
from runner.measure.power import PowerReading
from runner.measure.requests_file import RequestsFile
from runner.measure.session_work import SessionWork
from runner.measure.summary import summarise
from runner.run_info import RunInfo, Session

BLOCK_SIZE, BLOCKS, SEQUENCES, WINDOW = 16, 900, 32, 64
WEIGHTS, KEY = 540_000_000, 46_080  # bytes of a model of 135 million parameters, and of a token in its cache
CEILINGS = Ceilings(read_bytes_per_s=6.0e10, copy_bytes_per_s=5.4e10, matmul_flops_per_s=2.0e12)
BAD_ROW = "prompt has 2,310 tokens, more than max_model_len=2048"

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("session", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("arrival_s", pa.float64()),
        ("scheduled_s", pa.float64()),
        ("first_token_s", pa.float64()),
        ("last_token_s", pa.float64()),
        ("preemptions", pa.int32()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),
        ("sent_s", pa.float64()),
        ("phase", pa.string()),
        ("gaps_s", pa.list_(pa.float32())),
    ]
)

SUBJECTS = (
    "The harbour council",
    "A team of botanists",
    "The regional orchestra",
    "A small museum",
    "The night ferry",
)
VERBS = ("agreed to reopen", "has finally catalogued", "will give away", "spent a year repairing", "quietly replaced")
OBJECTS = ("the old tide gauge", "four thousand seed packets", "its worn-out timetable", "a forgotten map collection")
ENDS = (
    "after a long and patient vote.",
    "because nobody else would.",
    "in time for the spring.",
    "to everybody's relief.",
)


@dataclass
class _Row:
    """One simulated request; times in seconds."""

    index: int
    prompt: int
    target: int
    arrival: float = 0.0
    scheduled: float | None = None
    first: float | None = None
    last: float | None = None
    made: int = 0
    preemptions: int = 0
    error: str | None = None


@dataclass
class _Simulation:
    """All rows of one session through a batch of ``SEQUENCES``, with the timeline they leave."""

    rows: list[_Row]
    rng: np.random.Generator
    time: float = 0.0
    tokens: int = 0
    peak_blocks: int = 0
    peak_running: int = 0
    waiting: list[_Row] = field(default_factory=list)
    running: list[_Row] = field(default_factory=list)
    timeline: list[TimelinePoint] = field(default_factory=list)
    groups: StepGroups = field(default_factory=StepGroups)

    def run(self) -> None:
        todo = list(self.rows)
        while todo or self.waiting or self.running:
            while todo and len(self.waiting) + len(self.running) < WINDOW:
                row = todo.pop(0)
                row.arrival = self.time
                if row.error is None:
                    self.waiting.append(row)
            self._step()

    def _step(self) -> None:
        while self.waiting and len(self.running) < SEQUENCES:
            row = self.waiting.pop(0)
            row.scheduled = self.time
            self.running.append(row)
        new = sum(row.prompt for row in self.running if row.made == 0)
        began = self.time
        self.time += (0.011 + 0.0011 * len(self.running) + 0.00018 * new) * float(self.rng.lognormal(0, 0.12))
        keys = sum(row.prompt + row.made for row in self.running)
        cost = Cost(WEIGHTS // 2 * (len(self.running) + new), WEIGHTS + KEY * (keys + new))
        self.groups.add(cost, self.time - began)
        for row in self.running:
            row.made += 1
            row.first = self.time if row.first is None else row.first
            row.last = self.time
        self.tokens += len(self.running)
        blocks = sum(-(-(row.prompt + row.made) // BLOCK_SIZE) for row in self.running)
        self.peak_blocks, self.peak_running = max(self.peak_blocks, blocks), max(self.peak_running, len(self.running))
        count = len(self.running)
        self.running = [row for row in self.running if row.made < row.target]
        point = TimelinePoint(self.time, count, len(self.waiting), blocks / BLOCKS, self.tokens)
        self.timeline.append(point)


def _rows(rng: np.random.Generator, count: int, bad: int) -> list[_Row]:
    prompts = np.clip(rng.lognormal(5.4, 0.5, count), 40, 1200).astype(int)
    targets = np.clip(rng.lognormal(4.0, 0.45, count), 8, 128).astype(int)
    rows = [_Row(i, int(prompts[i]), int(targets[i])) for i in range(count)]
    for i in rng.choice(count, bad, replace=False):
        rows[int(i)].error = BAD_ROW
    for i in rng.choice(count, min(2, count), replace=False):
        rows[int(i)].preemptions = 1
    return rows


def row_id(index: int) -> str:
    """The id of the row at this place in the dataset."""
    return f"article-{index:04d}"


def _record(row: _Row, session: int) -> dict[str, Any]:
    reason = "error" if row.error else "length" if row.target >= 128 else "stop"
    return {
        "index": row.index,
        "id": row_id(row.index),
        "session": session,
        "prompt_tokens": row.prompt,
        "cached_tokens": 0 if row.error else row.prompt // 5 // BLOCK_SIZE * BLOCK_SIZE,
        "output_tokens": row.made,
        "arrival_s": row.arrival,
        "scheduled_s": row.scheduled,
        "first_token_s": row.first,
        "last_token_s": row.last,
        "preemptions": row.preemptions,
        "finish_reason": reason,
        "error": row.error,
        "sent_s": None,
        "phase": None,
        "gaps_s": None,
    }


def _text(rng: np.random.Generator, sentences: int) -> str:
    words = (SUBJECTS, VERBS, OBJECTS, ENDS)
    return " ".join(" ".join(part[rng.integers(len(part))] for part in words) for _ in range(sentences))


def config(rows: int) -> dict[str, Any]:
    """A resolved configuration like that of a summarising recipe."""
    return {
        "name": "demo",
        "task": {"kind": "chat"},
        "model": {"name": "smollm2-135m-instruct", "dtype": "float32", "revision": None},
        "prompt": {"system": "You write one-paragraph summaries.", "user": "Summarize:\n\n{{ article }}"},
        "engine": {"max_model_len": 2048, "max_num_seqs": SEQUENCES, "block_size": BLOCK_SIZE, "seed": 0},
        "sampling": {"temperature": 0.0, "max_tokens": 128, "stop": ["\n\n"]},
        "dataset": {"kind": "jsonl", "path": "articles.jsonl", "id_column": "id", "limit": rows},
        "sinks": [{"kind": "jsonl"}, {"kind": "parquet"}],
        "tracking": {"kind": "mlflow"},
        "max_error_rate": 0.05,
    }


def make_run(root: Path, rows: int) -> RunInfo:
    """A run in a new folder under ``root``."""
    run_id = "20250131-120000-3f9a1c"
    run_dir = root / "demo" / run_id
    run_dir.mkdir(parents=True)
    digest = "sha256:3f9a1c" + "0b7e" * 14 + "aa"
    return RunInfo("demo", run_id, run_dir, config(rows), digest, ["runner", "+recipe=demo"])


def works_of(stats: EngineStats, sessions: list[Session]) -> list[SessionWork]:
    """What the last session noted; the others were killed."""
    power = PowerReading(sessions[-1].measured_seconds, reason="the engine ran on the CPU")
    return [SessionWork.of(sessions[-1].number, sessions[-1].measured_seconds, stats, power)]


def simulate(rows: int, bad: int = 0, sessions: int = 1, seed: int = 0) -> tuple[pa.Table, EngineStats, list[Session]]:
    """The requests table, engine statistics and sessions of a simulated run; all but the last session were killed."""
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    done: list[Session] = []
    parts = np.array_split(np.array(_rows(rng, rows, bad), dtype=object), sessions)
    for number, part in enumerate(parts, start=1):
        simulation = _Simulation(list(part), rng)
        simulation.run()
        records += [_record(row, number) for row in part]
        status = "FINISHED" if number == sessions else "KILLED"
        started = 1738324800.0 + 600 * (number - 1)
        done.append(Session(number, started, 2.41, simulation.time, len(part), status))
    stats = EngineStats(
        steps=len(simulation.timeline),
        peak_running=simulation.peak_running,
        kv_blocks_total=BLOCKS,
        peak_kv_blocks=simulation.peak_blocks,
        startup={"load": 1.62, "cache": 0.03, "tokenizer": 0.71},
        busy_seconds=simulation.time,
        flops=sum(group.flops for group in simulation.groups.groups()),
        bytes=sum(group.bytes for group in simulation.groups.groups()),
        step_groups=simulation.groups.groups(),
        device={"type": "cpu", "name": "Example CPU", "threads": "2"},
        numerics={"dtype": "float32", "torch": "2.13.0", "attention": "torch", "gemm": "onednn"},
        timeline=tuple(simulation.timeline),
    )
    return pa.Table.from_pylist(records, schema=SCHEMA), stats, done


def write_run_folder(root: Path, *, rows: int = 160, bad: int = 1, sessions: int = 1, seed: int = 0) -> RunInfo:
    """Everything that a finished run leaves, except the reports."""
    run = make_run(root, rows)
    table, stats, done = simulate(rows, bad, sessions, seed)
    pq.write_table(table, run.run_dir / "requests.parquet")
    rng = np.random.default_rng(seed)
    good, wrong = [], []
    for record in table.to_pylist():
        common = {"id": record["id"], "article": _text(rng, 6), "prompt_tokens": record["prompt_tokens"]}
        if record["error"]:
            wrong.append(common | {"finish_reason": "error", "error": record["error"]})
        else:
            output = {"output": _text(rng, 2), "finish_reason": record["finish_reason"]}
            good.append(common | output | {"output_tokens": record["output_tokens"], "error": None})
    _write_lines(run.run_dir / "outputs.jsonl", good)
    _write_lines(run.run_dir / "errors.jsonl", wrong)
    (run.run_dir / "config.yaml").write_text(yaml.safe_dump(run.config, sort_keys=False), encoding="utf-8")
    dataset = {"source": "/data/articles.jsonl", "rows": rows, "digest": "sha256:" + "5d41" * 16}
    model = {"name": "smollm2-135m-instruct", "weights": "sha256:" + "b10a" * 16, "tokenizer": "sha256:" + "c4ca" * 16}
    outputs = {name: manifest.digest_file(run.run_dir / name) for name in ("outputs.jsonl", "errors.jsonl")}
    _write_json(run.run_dir / "manifest.json", manifest.build(run, dataset=dataset, model=model, outputs=outputs))
    works = works_of(stats, done)
    found = {work.machine: CEILINGS for work in works if work.machine is not None}
    requests = RequestsFile(run.run_dir / "requests.parquet")
    _write_json(run.run_dir / "metrics.json", summarise(requests, stats, done, works, found))
    return run


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
