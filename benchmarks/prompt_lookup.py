"""Prompt lookup against plain decoding on this machine: the same tokens, and how much sooner they come.

    python benchmarks/prompt_lookup.py [--recipes demo,summarize] [--streams 1,16] [--rows 16] [--repeats 3] [--model M]
        [--dtype bfloat16] [--tokens 5] [--out FILE.json]

Prompts and sampling are those of the recipes, over the shipped articles. Both engines share one set of weights and run
in turn, repeat by repeat; the exit code says whether all their tokens and log-probabilities were equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.args import EngineArgs  # noqa: E402
from engine.params import Prompt, SamplingParams  # noqa: E402

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


@dataclass
class Series:
    """One recipe at one number of streams: seconds of each repeat, and what the drafts were worth."""

    recipe: str
    streams: int
    plain: list[float] = field(default_factory=list)
    drafted: list[float] = field(default_factory=list)
    equal: bool = True
    tokens: int = 0
    steps: tuple[int, int] = (0, 0)
    acceptance: float | None = None
    length: float | None = None

    @property
    def ratio(self) -> float:
        """Median over the repeats of plain by drafted seconds: each repeat ran both, one after the other."""
        return statistics.median(a / b for a, b in zip(self.plain, self.drafted, strict=True))


def read_work(recipe: str, rows: int) -> Work:
    """The prompts that the runner would make."""
    from hydra import compose, initialize_config_module

    from runner.composition import plain_data
    from runner.config import parse
    from runner.dataset import open_dataset
    from runner.task.task import open_task

    overrides = [f"+recipe={recipe}", f"dataset.limit={rows}", *OVERRIDES.get(recipe, [])]
    with initialize_config_module("recipes", version_base=None):
        config = parse(plain_data(compose("config", overrides), overrides))
    task = open_task(config)
    return Work(
        recipe, [task.prompts.make(row.columns) for row in open_dataset(config.dataset).iter_rows()], config.sampling
    )


class Pair:
    """An engine without drafts and one with, over the same weights."""

    def __init__(self, args: EngineArgs, drafting: dict[str, Any]) -> None:
        from engine.build import build, set_threads

        set_threads()
        plain = build(args)
        decoder = plain.core.runner.model  # type: ignore[union-attr]
        self.engines = (plain, build(replace(args, speculative_config=drafting), decoder))

    def run(self, which: int, work: Work, streams: int) -> tuple[float, list[Any], Any]:
        """Seconds, outputs and statistics of one engine."""
        from engine.text.inputs import read_inputs

        engine = self.engines[which]
        core: Any = engine.core
        core.reset_prefix_cache()
        core.scheduler.limits = replace(core.scheduler.limits, max_seqs=streams)
        before, found, start = core.stats(), {}, time.monotonic()
        for number, prompt in enumerate(read_inputs(work.prompts, engine.tokenizer)):
            core.add(str(number), prompt, work.params)
        while core.unfinished:
            for output in core.step():
                (one,) = output.outputs
                found[int(output.request_id)] = (one.token_ids, one.finish_reason, one.logprobs)
        seconds, after = time.monotonic() - start, core.stats()
        names = ("steps", "output_tokens", "drafts", "drafted_tokens", "accepted_tokens")
        return seconds, [found[i] for i in sorted(found)], {n: getattr(after, n) - getattr(before, n) for n in names}


def measure(pair: Pair, work: Work, streams: int, repeats: int) -> Series:
    """Both engines in turn, ``repeats`` times, then once with log-probabilities, which must be equal too."""
    series = Series(work.recipe, streams)
    for repeat in range(repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        results = {which: pair.run(which, work, streams) for which in order}
        series.plain.append(results[0][0])
        series.drafted.append(results[1][0])
        series.equal &= results[0][1] == results[1][1]
        counts = results[1][2]
        series.tokens, series.steps = counts["output_tokens"], (results[0][2]["steps"], counts["steps"])
        if counts["drafts"]:
            series.acceptance = counts["accepted_tokens"] / counts["drafted_tokens"]
            series.length = 1 + counts["accepted_tokens"] / counts["drafts"]
        print(f"  {work.recipe} x {streams}: {series.plain[-1]:.1f} s, drafted {series.drafted[-1]:.1f} s", flush=True)
    scored = replace(work, params=replace(work.params, logprobs=1))
    series.equal &= pair.run(0, scored, streams)[1] == pair.run(1, scored, streams)[1]
    return series


def table(found: list[Series]) -> str:
    """One line for each recipe and number of streams."""
    lines = [
        "| recipe | streams | output tokens | steps | drafts right | tokens per drafted step | speed-up (repeats) "
        "| equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        each = ", ".join(f"{a / b:.2f}" for a, b in zip(one.plain, one.drafted, strict=True))
        rate = "none" if one.acceptance is None else f"{one.acceptance:.0%}"
        length = "" if one.length is None else f"{one.length:.2f}"
        lines.append(
            f"| {one.recipe} | {one.streams} | {one.tokens} | {one.steps[0]} -> {one.steps[1]} | {rate} | {length} "
            f"| **{one.ratio:.2f}** ({each}) | {'yes' if one.equal else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipes", default="demo,summarize")
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=5, help="num_speculative_tokens")
    parser.add_argument("--out")
    options = parser.parse_args()
    args = EngineArgs(model=options.model, dtype=options.dtype, max_model_len=2048)
    works = [read_work(recipe, options.rows) for recipe in options.recipes.split(",")]
    pair = Pair(args, {"method": "ngram", "num_speculative_tokens": options.tokens})
    found = []
    for work in works:
        found += [measure(pair, work, int(streams), options.repeats) for streams in options.streams.split(",")]
    print("\n" + table(found))
    if options.out:
        Path(options.out).write_text(json.dumps([vars(one) for one in found], indent=1))
    sys.exit(0 if all(one.equal for one in found) else 1)


if __name__ == "__main__":
    main()
