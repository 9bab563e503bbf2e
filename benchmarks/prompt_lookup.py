"""Prompt lookup against plain decoding on this machine: the same tokens, and how much sooner they come.

    python benchmarks/prompt_lookup.py [--recipes "demo;demo sampling.repetition_penalty=1;summarize"] [--streams 1,16]
        [--rows 4] [--repeats 3] [--model M] [--dtype bfloat16] [--tokens 5] [--out FILE.json]

Each recipe may have overrides behind it. As many rows run as there are streams, and at least ``--rows``. Prompts and
sampling are those of the recipes, over the shipped articles. Both engines share one set of weights and run in turn,
repeat by repeat, each first in every other one. Two ratios: by the clock, and by the processor time of this process,
which other work on the machine disturbs less. The exit code says whether all tokens were equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.args import EngineArgs  # noqa: E402
from engine.params import Prompt, SamplingParams  # noqa: E402

COUNTERS = ("steps", "output_tokens", "drafts", "drafted_tokens", "accepted_tokens")
ARTICLES = ["dataset=jsonl", "dataset.path=builtin:articles.jsonl", "dataset.id_column=id"]
OVERRIDES = {  # the shipped articles in place of texts of one's own
    "summarize": [*ARTICLES, "prompt.user='Summarize this text in one short paragraph. {{ article }}'"],
}


@dataclass(frozen=True)
class Work:
    """A recipe's prompts, and how they are sampled."""

    recipe: str
    prompts: list[Prompt]
    params: SamplingParams


@dataclass(frozen=True)
class Measured:
    """One run of one engine: seconds, outputs, and what its counters counted."""

    wall: float
    processor: float
    outputs: list[Any]
    counts: dict[str, int]


@dataclass(frozen=True)
class Series:
    """One recipe at one number of streams: each repeat's run without drafts and with them."""

    recipe: str
    streams: int
    runs: list[tuple[Measured, Measured]]

    @property
    def equal(self) -> bool:
        """Whether all outputs are the same."""
        return all(one.outputs == self.runs[0][0].outputs for pair in self.runs for one in pair)

    def ratios(self, clock: str) -> list[float]:
        """Seconds without drafts by seconds with them, of each repeat."""
        return [getattr(plain, clock) / getattr(drafted, clock) for plain, drafted in self.runs]


def read_work(words: str, rows: int) -> Work:
    """The prompts that the runner would make of a recipe and its overrides."""
    from hydra import compose, initialize_config_module

    from runner.composition import plain_data
    from runner.config import parse
    from runner.dataset import open_dataset
    from runner.dataset.rows import Row
    from runner.task.task import open_task

    recipe, *more = words.split()
    overrides = [f"+recipe={recipe}", f"dataset.limit={rows}", *OVERRIDES.get(recipe, []), *more]
    with initialize_config_module("recipes", version_base=None):
        config = parse(plain_data(compose("config", overrides), overrides))
    task = open_task(config)
    good = (row for row in open_dataset(config.dataset).iter_rows() if isinstance(row, Row))
    return Work(words, [task.prompts.make(row.columns) for row in good], config.sampling)


class Pair:
    """An engine without drafts and one with, over the same weights."""

    def __init__(self, args: EngineArgs, drafting: dict[str, Any]) -> None:
        from engine.build import build
        from engine.device import set_threads

        set_threads()
        plain = build(args)
        decoder = plain.core.runner.model  # type: ignore[union-attr]
        self.engines = (plain, build(replace(args, speculative_config=drafting), decoder))

    def run(self, which: int, work: Work, streams: int) -> Measured:
        """One engine over all prompts, ``streams`` at a time."""
        from engine.text.inputs import read_inputs

        core: Any = self.engines[which].core
        core.reset_prefix_cache()
        core.scheduler.limits = replace(core.scheduler.limits, max_seqs=streams)
        found, before = {}, core.stats()
        wall, processor = time.monotonic(), time.process_time()
        for number, prompt in enumerate(read_inputs(work.prompts, self.engines[which].tokenizer)):
            core.add(str(number), prompt, work.params)
        while core.unfinished:
            for output in core.step():
                (one,) = output.outputs
                found[int(output.request_id)] = (one.token_ids, one.finish_reason)
        wall, processor = time.monotonic() - wall, time.process_time() - processor
        counts = {name: getattr(core.stats(), name) - getattr(before, name) for name in COUNTERS}
        return Measured(wall, processor, [found[i] for i in sorted(found)], counts)


def measure(pair: Pair, work: Work, streams: int, repeats: int) -> Series:
    """Both engines in turn, ``repeats`` times."""
    runs = []
    for repeat in range(repeats):
        found = {which: pair.run(which, work, streams) for which in ((0, 1) if repeat % 2 == 0 else (1, 0))}
        runs.append((found[0], found[1]))
        seconds = [f"{found[which].wall:.1f} s ({found[which].processor:.1f} of a processor)" for which in (0, 1)]
        print(f"  {work.recipe} x {streams}: {seconds[0]}, with drafts {seconds[1]}", flush=True)
    return Series(work.recipe, streams, runs)


def table(found: list[Series]) -> str:
    """One line for each recipe and number of streams."""
    lines = [
        "| recipe | streams | output tokens | steps | drafts accepted | tokens per drafted step "
        "| speed-up, processor time (each repeat) | by the clock | equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        plain, drafted = (measured.counts for measured in one.runs[0])
        rate = drafted["accepted_tokens"] / max(1, drafted["drafted_tokens"])
        length = 1 + drafted["accepted_tokens"] / max(1, drafted["drafts"])
        processor, wall = (statistics.median(one.ratios(clock)) for clock in ("processor", "wall"))
        each = ", ".join(f"{ratio:.2f}" for ratio in one.ratios("processor"))
        lines.append(
            f"| {one.recipe} | {one.streams} | {drafted['output_tokens']} | {plain['steps']} -> {drafted['steps']} "
            f"| {rate:.0%} | {length:.2f} | **{processor:.2f}** ({each}) | {wall:.2f} "
            f"| {'yes' if one.equal else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipes", default="demo;demo sampling.repetition_penalty=1")
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=5, help="num_speculative_tokens")
    parser.add_argument("--out")
    options = parser.parse_args()
    args = EngineArgs(model=options.model, dtype=options.dtype, max_model_len=2048)
    streams = [int(count) for count in options.streams.split(",")]
    works = [read_work(words, max(options.rows, *streams)) for words in options.recipes.split(";")]
    pair = Pair(args, {"method": "ngram", "num_speculative_tokens": options.tokens})
    found = []
    for work in works:
        for count in streams:
            some = replace(work, prompts=work.prompts[: max(options.rows, count)])
            found.append(measure(pair, some, count, options.repeats))
    print("\n" + table(found))
    if options.out:
        Path(options.out).write_text(json.dumps([asdict(one) for one in found], indent=1))
    sys.exit(0 if all(one.equal for one in found) else 1)


if __name__ == "__main__":
    main()
