"""Shows on a GPU that no answer depends on its neighbours, to the bit, and what that costs.

    python benchmarks/gpu_invariance.py --out invariance.json [--models llama1b,llama8b] [--parts equal,variance,cost]

At full depth, with random weights at a trained model's scale. ``equal``: 256 requests, greedy and sampled, under other
batch sizes, orders, chunk sizes, caches, preemptions and policies give the tokens and log-probabilities of the
reference to the bit. ``variance``: with ``batch_invariant`` off the same comparison sees differences, so it would see
them above. ``cost``: throughput with ``batch_invariant`` on over off, fresh processes in turn. The exit code is not
zero when something differs that must not, or where no variance was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.children import Row, child_rows, reporter
from benchmarks.gpu_workloads import write_model

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("equal", "variance", "cost")
COST_WORKLOADS, COST_AIM = "decode,chatlike", 0.98
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")  # left from elsewhere, they would change both sides


def main() -> None:
    """Run the parts on each model, print what they found, write it down."""
    options = _options()
    if options.child:
        compare_in_child(options)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.budget
    rows: list[Row] = []
    for model in options.models.split(","):
        for part in options.parts.split(","):
            for row in _part_rows(model, part, options, end):
                rows.append({"model": model, "part": part, **row})
                print(_line(rows[-1]), flush=True)
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
    costs = [ratio for model in options.models.split(",") for ratio in cost_ratios(model, rows)]
    options.out.write_text(json.dumps({"rows": rows, "cost": costs}, indent=1) + "\n")
    wrong = verdicts(rows, options)
    print("\n".join(["", *(_cost_line(cost) for cost in costs), *(wrong or ["all that was asked for holds"])]))
    sys.exit(1 if wrong else 0)


def compare_in_child(options: argparse.Namespace) -> None:
    """The child: load one model, run the reference and then every case against it."""
    from benchmarks.invariance import VARIANCE, Case, SharedWeights, cases, differences, requests, unmet

    report = reporter()
    work = requests(options.requests, options.longest, options.outputs)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(options.models, Path(folder), **options.changes)
        weights = SharedWeights(str(model), **options.arguments)
        reference = Case("reference: all together, defaults")
        expected = weights.run(work, reference)
        report({"event": "case", "case": reference.name, "requests": len(work), "ran_s": round(expected.seconds, 1),
                **expected.counters, "reason": unmet(expected, reference)})  # fmt: skip
        chosen = VARIANCE if options.child == "variance" else cases(weights.args.max_model_len or 4096)
        for case in chosen:
            unknown = weights.missing(case)
            if unknown:
                report({"event": "case", "case": case.name, "reason": f"this engine has no argument {unknown}"})
                continue
            got = weights.run(work, case)
            report({"event": "case", "case": case.name, **differences(got, expected, case), **got.counters,
                    "ran_s": round(got.seconds, 1), "reason": unmet(got, case)})  # fmt: skip


def cost_ratios(model: str, rows: list[Row]) -> list[Row]:
    """Throughput with ``batch_invariant`` over without, by medians over all repeats but each process's first."""
    ratios = []
    for kind in COST_WORKLOADS.split(","):
        rates: dict[bool, list[float]] = {True: [], False: []}
        for row in rows:
            if row["event"] == "repeat" and (row["model"], row["workload"]) == (model, kind) and row["repeat"] > 0:
                rates[row["batch_invariant"]].append(row["output_tokens_s"])
        if rates[True] and rates[False]:
            ratio = statistics.median(rates[True]) / statistics.median(rates[False])
            ratios.append({"model": model, "workload": kind, "on": rates[True], "off": rates[False], "ratio": ratio})
    return ratios


def verdicts(rows: list[Row], options: argparse.Namespace) -> list[str]:
    """What is not as it must be, in sentences; empty if all is well."""
    wrong = [f"{r['model']}, {r['part']}: {r['reason']}" for r in rows if r["event"] == "failed"]
    for row in (row for row in rows if row["event"] == "case"):
        name = f"{row['model']}, {row['part']}, {row['case']}"
        if row.get("reason"):
            wrong.append(f"{name}: {row['reason']}")
        if row["part"] == "equal" and (row.get("tokens_differ") or row.get("logprobs_differ")):
            wrong.append(f"{name}: {row['tokens_differ']} / {row['logprobs_differ']} requests differ")
    for model in options.models.split(",") if "variance" in options.parts.split(",") else []:
        seen = [r for r in rows if r["part"] == "variance" and r["model"] == model]
        if not any(r.get("logprobs_differ") for r in seen):
            wrong.append(f"{model}, variance: none seen with batch_invariant off, so the comparison shows nothing")
    return wrong


def _part_rows(model: str, part: str, options: argparse.Namespace, end: float) -> Iterator[Row]:
    environment = {name: value for name, value in os.environ.items() if name not in CUBLAS}
    if part != "cost":
        arguments = {"dtype": "bfloat16", "max_model_len": 4096, **options.arguments}
        given = {**arguments, "batch_invariant": part != "variance"}
        command = [sys.executable, __file__, "--child", part, "--models", model, "--arguments", json.dumps(given)]
        command += ["--changes", json.dumps(options.changes), "--requests", str(options.requests)]
        command += ["--longest", str(options.longest), "--outputs", str(options.outputs)]
        yield from child_rows(command, options.logs / f"{model}-{part}.log", _left(end), environment)
        return
    for turn in range(options.turns):
        for invariant in (True, False) if turn % 2 == 0 else (False, True):
            command = [sys.executable, str(ROOT / "benchmarks/gpu_engine.py"), "--model", model, "--repeats", "2"]
            command += [
                "--workloads",
                COST_WORKLOADS,
                "--seed",
                str(10 * turn),
                "--changes",
                json.dumps(options.changes),
            ]
            command += ["--arguments", json.dumps({**options.arguments, "batch_invariant": invariant})]
            command += ["--requests", str(options.cost_requests)] if options.cost_requests else []
            log = options.logs / f"{model}-cost-{turn}-{invariant}.log"
            for row in child_rows(command, log, _left(end), environment):
                yield {**row, "batch_invariant": invariant, "turn": turn}


def _left(end: float) -> float:
    return max(1.0, end - time.monotonic())


def _line(row: Row) -> str:
    label = f"{row['model']:8} {row['part']:9}"
    if row["event"] == "case":
        if "tokens_differ" not in row:
            return f"{label} {row['case']:44} {row.get('reason') or ''} {_counters(row)}"
        differ = f"{row['tokens_differ']:4} / {row['logprobs_differ']:4} of {row['requests']:4} differ"
        return f"{label} {row['case']:44} {differ} {_counters(row)} {row['reason'] or ''}"
    if row["event"] == "repeat":
        flag = "on" if row["batch_invariant"] else "off"
        return (
            f"{label} {row['workload']} {row['turn']}.{row['repeat']} {flag:3} {row['output_tokens_s']:,.1f} tokens/s"
        )
    return f"{label} {row['event']} {row.get('reason', '')}"


def _counters(row: Row) -> str:
    if "ran_s" not in row:
        return ""
    return (
        f"{row['ran_s']:6.1f} s, {row['steps']} steps, up to {row['peak_running']} together, "
        f"{row['preemptions']} preempted, {row['swapped_in']} blocks swapped in, {row['cached_tokens']} cached"
    )


def _cost_line(cost: dict[str, Any]) -> str:
    holds = "holds" if cost["ratio"] >= COST_AIM else "does NOT hold"
    return f"{cost['model']}, {cost['workload']}: batch_invariant on / off {cost['ratio']:.3f}; {COST_AIM} {holds}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/invariance.json"))
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "invariance")
    parser.add_argument("--models", default="llama1b,llama8b")
    parser.add_argument("--parts", default="equal,variance", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--budget", type=float, default=570, help="seconds for all of it; what is left out says so")
    parser.add_argument("--turns", type=int, default=2, help="processes of each kind for cost")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--longest", type=int, default=2000, help="tokens of the longest prompt")
    parser.add_argument(
        "--outputs", type=int, default=32, help="tokens of the shortest output; the longest has twice as many"
    )
    parser.add_argument("--cost-requests", type=int, help="keep so many requests of the workloads of cost")
    parser.add_argument("--arguments", type=json.loads, default={}, help="engine arguments as JSON")
    parser.add_argument("--changes", type=json.loads, default={}, help="entries of the models' configs, as JSON")
    parser.add_argument("--child", choices=PARTS[:2], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
