"""What structured outputs and processed logits cost per step, and where:
``python benchmarks/structured_outputs.py [--rows 1,16,64] [--repeats 5] [--forms free,json,...]``.

The same prompts are decoded freely and in each form, one step of one after a step of the other, so that whatever else
the machine does falls on all of them alike. No output ends early: the forms go on for longer than the outputs. Prints
the median time of a decode step in each form by the clock, and by the processors' own account (of all threads together,
which other programs disturb less), and what it adds to the median of the free one.

Then, for each form, the parts of its draws in microseconds per step (medians), on the host and between events on the
device, which counts waiting for the host too: ``masks`` is the host filling them (a device computes the step
meanwhile), ``copy`` all numbers and masks going to the device, ``follow`` counts and histories of drawn tokens,
``process`` the launch for biases, stop ids and bad words, ``apply masks``, and ``draw`` the sampling kernels. ``rest``
is what the step takes longer than the free one and the host's parts do not explain; it is negative where they are
hidden behind the device's work. "json before" is json with a copy for each list of numbers and masks applied by torch
operations. Nothing is launched ahead here; with ``--ahead`` the first table is of whole runs with steps launched ahead,
as the engine does by default on CUDA, and there is no second one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.draw_parts import Meter, Micros, as_before
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
JSON = {"json": {"type": "array", "items": RECORD, "minItems": 1000}, "disable_any_whitespace": True}
FORMS: dict[str, dict[str, Any]] = {
    "free": {},
    "json": {"structured_outputs": JSON},
    "json before": {"structured_outputs": JSON},
    "json_object": {"structured_outputs": {"json_object": True}},
    "regex": {"structured_outputs": {"regex": r"([a-z]{2,9}, )+[0-9]{9}"}},
    "grammar": {
        "structured_outputs": {"grammar": 'root ::= item+ "."\nitem ::= "(" item? ")" [a-z0-9 ]{1,20} ", "'},
    },
    "logit_bias": {"logit_bias": dict.fromkeys(range(40, 60), -5.0)},
    "allowed ids": {"allowed_token_ids": list(range(100, 5000))},
    "min_tokens": {"min_tokens": 24, "stop_token_ids": [40, 41, 42]},
    "bad_words": {"bad_words": ["the", "of the", "in order to", "New York"]},
    "penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.2},
}
LENGTH = 24  # output tokens
AS_BEFORE = " before"  # ends the name of a form whose draws are done as they were
COLUMNS = ("masks", "copy", "follow", "process", "apply masks", "draw")

Seconds = tuple[float, float]  # by the clock, of all processors


@dataclass
class Times:
    """Decode steps of one form."""

    steps: list[Seconds] = field(default_factory=list)
    parts: list[dict[str, Micros]] = field(default_factory=list)

    @property
    def medians(self) -> list[float]:
        """Of the clock's and of the processors' seconds."""
        return [statistics.median(kind) for kind in zip(*self.steps, strict=True)]

    def part(self, name: str) -> Micros:
        """Medians of a part's microseconds per step."""
        found = [step.get(name, (0.0, 0.0)) for step in self.parts]
        return statistics.median(host for host, _ in found), statistics.median(device for _, device in found)


def steps(core: GenerationCore, rows: int, fields: dict[str, Any]) -> Iterator[Seconds]:
    """Seconds of each decode step of ``rows`` outputs; the prompts' steps are not among them."""
    params: Any = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True, **fields)
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


def compare(cores: dict[str, GenerationCore], rows: int, repeats: int, meter: Meter | None) -> dict[str, Times]:
    """Times by form: a step of each in turns, or without a meter a whole run of each in turns."""
    found = {name: Times() for name in cores}
    for _ in range(repeats):
        running = {name: steps(core, rows, FORMS[name]) for name, core in cores.items()}
        while running:
            for name in list(running):
                if meter is None:
                    found[name].steps += running.pop(name)
                    continue
                with as_before(meter) if name.endswith(AS_BEFORE) else nullcontext():
                    meter.take()
                    seconds = next(running[name], None)
                if seconds is None:
                    del running[name]
                    continue
                found[name].steps.append(seconds)
                found[name].parts.append(meter.take())
    return found


def print_steps(rows: int, found: dict[str, Times]) -> None:
    """What each form adds to a step."""
    free = found["free"].medians
    for name, times in found.items():
        both = times.medians
        cells = [f"{1e3 * now:.2f} | {100 * (now / before - 1):.1f}" for now, before in zip(both, free, strict=True)]
        print(f"| {rows} | {name} | {' | '.join(cells)} | {1e6 * (both[1] - free[1]) / rows:.0f} |", flush=True)


def print_parts(rows: int, found: dict[str, Times]) -> None:
    """Where a form's draws take their time: microseconds of the host, and of the device where there is one."""
    free = found["free"].medians[0]
    for name, times in found.items():
        if name == "free":
            continue
        parts = {part: times.part(part) for part in COLUMNS}
        added = 1e6 * (times.medians[0] - free)
        rest = added - sum(host for host, _ in parts.values())
        cells = [f"{host:.0f}, {device:.0f}" for host, device in parts.values()]
        print(f"| {rows} | {name} | {added:.0f} | {' | '.join(cells)} | {rest:.0f} |", flush=True)


def engines(args: argparse.Namespace, names: Sequence[str], rows: int) -> dict[str, GenerationCore]:
    """A core for each form; all have one runner, which has a row for each request of any."""
    common = {"dtype": args.dtype, "device": args.device, "max_model_len": 512, "async_scheduling": args.ahead}
    first = build(
        EngineArgs(model=args.model, max_num_seqs=rows * len(names), kv_cache_memory_bytes=1 << 28, **common)
    ).core
    assert isinstance(first, GenerationCore)
    limits = replace(first.scheduler.limits, max_seqs=rows, balance=0)
    cores = {
        name: GenerationCore(first.model, first.runner, limits, first.tokenizer, ahead=args.ahead) for name in names
    }
    return cores


def metered(cores: dict[str, GenerationCore], device: torch.device) -> Meter:
    """Measure the parts of all draws, and the filling of masks by whatever thread does it."""
    meter = Meter(device)
    meter.watch()
    for core in cores.values():
        core._masks._fill = meter.timed("masks", core._masks._fill)  # type: ignore[method-assign]
    return meter


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", default="1,16,64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", default=",".join(name for name in FORMS if name != "json_object"))
    parser.add_argument("--ahead", action="store_true", help="launch steps ahead; no parts then")
    args = parser.parse_args()
    rows = [int(count) for count in args.rows.split(",")]
    names = ["free", *(form for form in args.forms.split(",") if form not in ("free", ""))]
    cores = engines(args, names, max(rows))
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    meter = None if args.ahead else metered(cores, device)
    compare(cores, 2, 1, meter)  # kernels and grammars are compiled
    print("| rows | form | ms per step | added, % | CPU ms per step | added, % | added per token, CPU µs |")
    print("|---|---|---|---|---|---|---|")
    tables = {}
    for count in rows:
        tables[count] = compare(cores, count, args.repeats, meter)
        print_steps(count, tables[count])
    if meter is None:
        return
    print(f"\n| rows | form | added, µs | {' | '.join(f'{part}: host, device' for part in COLUMNS)} | rest |")
    print(f"|---|---|---|{'---|' * len(COLUMNS)}---|")
    for count, found in tables.items():
        print_parts(count, found)


if __name__ == "__main__":
    main()
