"""What structured outputs cost per step: ``python benchmarks/structured_outputs.py [--rows 1,16,64] [--repeats 5]``.

The same prompts are decoded freely and in each form, one step of one after a step of the other, so that whatever else
the machine does falls on all of them alike. No output ends early: the forms go on for longer than the outputs. Prints
the median time of a decode step in each form by the clock, and by the processors' own account (of all threads together,
which other programs disturb less), and what it adds to the median of the free one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import SamplingParams
from engine.args import EngineArgs
from engine.build import build
from engine.generation import GenerationCore
from engine.text.inputs import Input

RECORD = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "year": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "kind": {"enum": ["city", "river", "mountain"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
    },
    "required": ["title", "year", "kind", "tags"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any] | None] = {
    "free": None,
    "json": {"json": {"type": "array", "items": RECORD, "minItems": 1000}, "disable_any_whitespace": True},
    "json_object": {"json_object": True},
    "regex": {"regex": r"([a-z]{2,9}, )+[0-9]{9}"},
    "grammar": {"grammar": 'root ::= item+ "."\nitem ::= "(" item? ")" [a-z0-9 ]{1,20} ", "'},
}
LENGTH = 24  # output tokens

Seconds = tuple[float, float]  # by the clock, of all processors


def steps(core: GenerationCore, rows: int, form: dict[str, Any] | None) -> Iterator[Seconds]:
    """Seconds of each decode step of ``rows`` outputs; the prompts' steps are not among them."""
    params: Any = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True, structured_outputs=form)
    for row in range(rows):
        core.add(str(row), Input([100 + row, 200, 300, 400, 28]), params)
    decoding = 0
    while core.unfinished:
        start = time.perf_counter(), time.process_time()
        core.step()
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        decoding += 1
        if decoding > 3:
            yield seconds


def compare(cores: dict[str, GenerationCore], rows: int, repeats: int) -> dict[str, list[Seconds]]:
    """Times of steps by form, taken in turns."""
    found: dict[str, list[Seconds]] = {name: [] for name in cores}
    for _ in range(repeats):
        running = {name: steps(core, rows, FORMS[name]) for name, core in cores.items()}
        while running:
            for name in list(running):
                seconds = next(running[name], None)
                if seconds is None:
                    del running[name]
                else:
                    found[name].append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", default="1,16,64")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = [int(count) for count in args.rows.split(",")]
    common = {"dtype": args.dtype, "device": args.device, "max_model_len": 512, "async_scheduling": False}
    together = max(rows) * len(FORMS)  # all engines have one runner, which has a row for each request of any
    first = build(EngineArgs(model=args.model, max_num_seqs=together, kv_cache_memory_bytes=1 << 28, **common)).core
    assert isinstance(first, GenerationCore)
    limits = replace(first.scheduler.limits, max_seqs=max(rows), balance=0)
    cores = {name: GenerationCore(first.model, first.runner, limits, first.tokenizer, ahead=False) for name in FORMS}
    compare(cores, 2, 1)  # kernels and grammars are compiled
    print("| rows | form | ms per step | added, % | CPU ms per step | added, % | added per token, CPU µs |")
    print("|---|---|---|---|---|---|---|")
    for count in rows:
        found = compare(cores, count, args.repeats)
        medians = {
            name: [statistics.median(kind) for kind in zip(*times, strict=True)] for name, times in found.items()
        }
        free = medians["free"]
        for name, both in medians.items():
            cells = [
                f"{1e3 * now:.1f} | {100 * (now / before - 1):.1f}" for now, before in zip(both, free, strict=True)
            ]
            print(f"| {count} | {name} | {' | '.join(cells)} | {1e6 * (both[1] - free[1]) / count:.0f} |", flush=True)


if __name__ == "__main__":
    main()
