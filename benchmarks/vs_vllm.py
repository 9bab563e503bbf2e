"""Compares Galley with vLLM on a GPU: the same prompts to the token, both engines' defaults, one sitting, one table.

    python benchmarks/vs_vllm.py --out comparison.json [--vllm-path SITE_PACKAGES | --vllm-python PYTHON]

Each engine runs in a process of its own: for every model Galley first, then vLLM, then a second start of Galley whose
kernels are compiled already. Random weights, bf16, greedy, past the end of sequence, without text, ``max_model_len``
4096, 0.85 of the device's memory. Start-up counts from the first import to the first token, warm-up included; every
repeat is shown, the first one too, which pays for graphs not captured yet. What was measured is in ``--out`` after
every child; a child that fails or runs out of time is a row with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.children import Row, child_rows

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"galley": "benchmarks/gpu_engine.py", "vllm": "benchmarks/peers/vllm_gpu.py"}
MODELS, WORKLOADS = ("llama8b", "llama1b"), ("single", "chatlike", "decode", "sharedprefix")
BOUNDS: Mapping[tuple[str, str], float] = {  # least ratio of medians, where one is set
    ("llama8b", "single"): 1.10, ("llama8b", "chatlike"): 1.08, ("llama8b", "decode"): 1.08,
    ("llama8b", "sharedprefix"): 1.3, ("llama1b", "single"): 1.2, ("llama1b", "chatlike"): 1.3,
    ("llama1b", "decode"): 1.1, ("llama1b", "sharedprefix"): 1.3,
}  # fmt: skip
STARTUP_BOUND = {"llama8b": 15.0}  # seconds, kernels compiled


@dataclass(frozen=True)
class Comparison:
    """All rows so far."""

    rows: list[Row]

    def rates(self, engine: str, model: str, workload: str) -> list[float]:
        """Output tokens/s of each repeat."""
        wanted = {"event": "repeat", "engine": engine, "model": model, "workload": workload}
        return [row["output_tokens_s"] for row in self.rows if wanted.items() <= row.items()]

    def starts(self, engine: str, model: str) -> list[float]:
        """Seconds of each start."""
        wanted = {"event": "ready", "engine": engine, "model": model}
        return [row["startup_s"] for row in self.rows if wanted.items() <= row.items()]

    def same_work(self, model: str, workload: str) -> bool:
        """Whether every engine was asked for the same tokens in the same repeat."""
        asked: dict[int, set[str]] = {}
        for row in self.rows:
            if row["event"] == "repeat" and (row["model"], row["workload"]) == (model, workload):
                asked.setdefault(row["repeat"], set()).add(row["asked"])
        return all(len(digests) == 1 for digests in asked.values())

    def summary(self, model: str, workload: str) -> Row:
        """Both engines' figures on one workload, their ratios and whether the bound holds."""
        ours, theirs = self.rates("galley", model, workload), self.rates("vllm", model, workload)
        line: Row = {"model": model, "workload": workload, "galley": ours, "vllm": theirs}
        bound = BOUNDS.get((model, workload))
        if not self.same_work(model, workload):
            return line | {"reason": "the engines were asked for different tokens"}
        if ours and theirs:
            ratio = statistics.median(ours) / statistics.median(theirs)
            line |= {"median_ratio": round(ratio, 3), "best_ratio": round(max(ours) / max(theirs), 3)}
            line |= {"bound": bound, "holds": None if bound is None else ratio >= bound}
        return line


def main() -> None:
    """Run all children, print the table, write everything down."""
    options = _options()
    out: Path = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    comparison = Comparison([])
    head = {"gpu": gpu(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "command": sys.argv[1:]}
    end = time.monotonic() + options.budget
    for model in options.models.split(","):
        for engine, kinds in plan(options):
            for row in child(engine, model, kinds, options, end):
                comparison.rows.append(row)
                print(_progress(row), flush=True)
            write(out, head, comparison, options)
    print(f"\n{head['gpu']}\n{_versions(comparison)}\n\n{table(comparison, options)}")
    sys.exit(1 if any(row["event"] == "failed" for row in comparison.rows) else 0)


def plan(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(engine, workloads) of each child of a model, in order; a second start of Galley has no workloads."""
    engines = options.engines.split(",")
    return [(engine, options.workloads) for engine in engines] + [("galley", "")] * ("galley" in engines)


def child(engine: str, model: str, kinds: str, options: argparse.Namespace, end: float) -> Iterator[Row]:
    """The rows of one child, each with its engine and model."""
    given = options.galley_arguments if engine == "galley" else options.vllm_arguments
    python = options.vllm_python if engine == "vllm" and options.vllm_python else sys.executable
    command = [python, str(ROOT / SCRIPTS[engine]), "--model", model, "--workloads", kinds]
    command += ["--repeats", str(options.repeats), "--seed", str(options.seed)]
    command += ["--arguments", json.dumps(given), "--changes", json.dumps(options.changes)]
    for name in ("requests", "tokens"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    environment = dict(os.environ)
    if engine == "vllm" and options.vllm_path:
        paths = [str(Path(options.vllm_path).resolve()), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    log = options.logs / f"{model}-{engine}{'' if kinds else '-start'}.log"
    timeout = max(1.0, min(options.timeout, end - time.monotonic()))
    for row in child_rows(command, log, timeout, environment):
        yield {"engine": engine, "model": model, **row}


def gpu() -> str:
    """Name, memory and driver of the devices, without touching them."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "no NVIDIA GPU"
    return "; ".join(line.strip() for line in found.splitlines())


def write(out: Path, head: Row, comparison: Comparison, options: argparse.Namespace) -> None:
    """Everything so far as JSON."""
    summaries = [comparison.summary(model, kind) for model, kind in _cells(options)]
    out.write_text(json.dumps({**head, "table": summaries, "rows": comparison.rows}, indent=1) + "\n")


def table(comparison: Comparison, options: argparse.Namespace) -> str:
    """The comparison in Markdown."""
    lines = [
        "output tokens/s of every repeat; ratios are Galley / vLLM, median to median and best to best", "",
        "| model | workload | Galley | vLLM | median ratio | best ratio | bound | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for model, kind in _cells(options):
        line = comparison.summary(model, kind)
        if "reason" in line:
            lines.append(f"| {model} | {kind} | {line['reason']} | | | | | |")
            continue
        ratios = [f"{line[key]:.2f}" if key in line else "" for key in ("median_ratio", "best_ratio")]
        bound = line.get("bound")
        verdict = [f"{bound:.2f}", "yes" if line["holds"] else "**no**"] if bound else ["", ""]
        lines.append(
            f"| {' | '.join([model, kind, _rates(line['galley']), _rates(line['vllm']), *ratios, *verdict])} |"
        )
    lines += [
        "",
        "| start-up, s | Galley, first start | Galley, again | vLLM | bound | holds |",
        "|---|---|---|---|---|---|",
    ]
    for model in options.models.split(","):
        ours, theirs = comparison.starts("galley", model), comparison.starts("vllm", model)
        bound = STARTUP_BOUND.get(model)
        verdict = [f"{bound:g}", "yes" if ours[1] <= bound else "**no**"] if bound and len(ours) > 1 else ["", ""]
        cells = [*(f"{x:.1f}" for x in ours[:2]), "", ""][:2] + [f"{x:.1f}" for x in theirs[:1] or []]
        lines.append(f"| {' | '.join([model, *[*cells, ''][:3], *verdict])} |")
    for row in comparison.rows:
        if row["event"] == "failed":
            lines.append(f"\nfailed: {row['model']}, {row['engine']}: {row['reason']}")
    return "\n".join(lines)


def _cells(options: argparse.Namespace) -> list[tuple[str, str]]:
    return [(model, kind) for model in options.models.split(",") for kind in options.workloads.split(",")]


def _rates(rates: list[float]) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in rates) or "failed"


def _versions(comparison: Comparison) -> str:
    found = {row["engine"]: row["versions"] for row in comparison.rows if row["event"] == "ready"}
    return "\n".join(
        f"{engine}: {', '.join(f'{name} {version}' for name, version in versions.items())}"
        for engine, versions in found.items()
    )


def _progress(row: Row) -> str:
    label = f"{row['model']} {row['engine']}"
    if row["event"] == "ready":
        return f"{label}: ready in {row['startup_s']:.1f} s"
    if row["event"] == "failed":
        return f"{label}: FAILED: {row['reason']}"
    return f"{label}: {row['workload']} {row['repeat']}: {row['output_tokens_s']:,.1f} tokens/s, {row['seconds']:.2f} s"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/vs_vllm.json"))
    parser.add_argument(
        "--logs", type=Path, default=Path(tempfile.gettempdir()) / "vs_vllm", help="children's messages"
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="also longprompt, fewshot, bursty")
    parser.add_argument("--engines", default="galley,vllm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat; each repeat has its own requests")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a child")
    parser.add_argument("--budget", type=float, default=570, help="seconds for all of it; what is left out says so")
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM")
    parser.add_argument("--vllm-path", help="folder with vLLM and what it needs, put before the interpreter's own")
    parser.add_argument("--galley-arguments", type=json.loads, default={}, help="engine arguments as JSON")
    parser.add_argument("--vllm-arguments", type=json.loads, default={}, help="engine arguments as JSON")
    parser.add_argument("--changes", type=json.loads, default={}, help="entries of the models' configs, as JSON")
    parser.add_argument("--requests", type=int, help="keep so many requests of each workload")
    parser.add_argument("--tokens", type=int, help="cut prompts and outputs to so many tokens")
    return parser.parse_args()


if __name__ == "__main__":
    main()
