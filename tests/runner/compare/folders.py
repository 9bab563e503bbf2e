"""Writes finished run folders with given figures, as small as ``runner compare`` lets them be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from runner.measure.definitions import STATISTICS
from runner.sink.requests import requests_schema

BASE: dict[str, float] = {"output_tokens_per_s": 5000.0, "total_tokens_per_s": 16000.0, "requests_per_s": 40.0}
TIMES = {"ttft_ms": 80.0, "tpot_ms": 12.0, "e2e_ms": 1900.0, "queue_ms": 30.0}
TAIL = {"mean": 1.0, "p50": 0.9, "p90": 1.5, "p95": 1.8, "p99": 2.6}
OWN_NOISE = {"mean": 0.004, "p50": 0.004, "p90": 0.01, "p95": 0.015, "p99": 0.04}


def figures(rng: np.random.Generator, noise: float, slower: float = 1.0, drift: float = 1.0) -> dict[str, float]:
    """One repeat's metrics: a factor for the whole run (relative deviation ``noise``), and each metric's own noise.

    Args:
        rng: the source of both.
        noise: realistic is 0.01 (a GPU of one's own) to 0.03 (a busy machine).
        slower: a planted slowdown, 1.05 takes 5% longer.
        drift: what the machine was like at the time.
    """
    factor = float(rng.lognormal(0, noise)) * slower * drift
    flat = {name: value / factor * float(rng.lognormal(0, 0.002)) for name, value in BASE.items()}
    for name, value in TIMES.items():
        for statistic in STATISTICS:
            own = float(rng.lognormal(0, OWN_NOISE[statistic]))
            flat[f"{name}/{statistic}"] = value * TAIL[statistic] * factor * own
    return flat | {"tokens/output": 64000.0, "rows/ok": 300.0}


def write_run(
    folder: Path,
    flat: Mapping[str, float | None],
    *,
    started_at: float = 0.0,
    config: Mapping[str, Any] | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    notes: Mapping[str, str] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder: what ``read_run`` asks for, and one row's output unless ``records`` says otherwise."""
    folder.mkdir(parents=True)
    what = {"name": "x", "engine": {"max_num_seqs": 8}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(what), encoding="utf-8")
    hashed = f"hash of {json.dumps(what, sort_keys=True)}"
    content = {"recipe": "x", "config_hash": hashed, "dataset": {"digest": "sha256:d", "rows": 1}, **(manifest or {})}
    (folder / "manifest.json").write_text(json.dumps(content))
    session = {"number": 1, "started_at": started_at, "startup_seconds": 1.0, "measured_seconds": 12.0, "rows": 1}
    metrics = {"metrics": dict(flat), "notes": dict(notes or {}), "sessions": [session]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    pq.write_table(pa.Table.from_pylist([], schema=requests_schema()), folder / "requests.parquet")
    lines = records or [{"id": "r0", "output": "text", "finish_reason": "stop", "prompt_tokens": 3}]
    (folder / "outputs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    return folder
