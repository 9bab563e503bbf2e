"""Many requests with common beginnings, the limits under which they may run, and what each gives alone."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from engine.params import SamplingParams
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.steps import STOP, limits, request, run

CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "blocks": st.integers(7, 14),
    "max_tokens": st.integers(2, 30),
    "max_seqs": st.integers(1, 6),
    "prefix_caching": st.booleans(),
    "policy": st.sampled_from(["fcfs", "longest_first", "prefix_grouped"]),
    "admission_control": st.booleans(),
    "swap_slots": st.sampled_from([0, 4, 60]),
    "balance": st.sampled_from([0, 1]),
}


def requests(seed: int, count: int) -> list[Request]:
    """``count`` prompts; of some, several completions are made."""
    draw = random.Random(seed)
    beginnings = [[draw.randrange(3) for _ in range(8)] for _ in range(2)]
    made = []
    for index in range(count):
        beginning = draw.choice(beginnings)[: draw.randint(1, 8)]
        prompt = beginning + [draw.randrange(3) for _ in range(draw.randint(0, 8))]
        stop_ids = frozenset({STOP} if draw.random() < 0.5 else ())
        most, n = draw.randint(1, 10), draw.choice((1, 1, 2, 5))
        params = SamplingParams(n=n)
        made += [request(index, prompt, most, child=i, params=params, stop_ids=stop_ids) for i in range(n)]
    return made


def run_alone(work: list[Request]) -> list[Request]:
    """The same requests, each having run by itself."""
    for one in work:
        scheduler = Scheduler(limits())
        scheduler.add(one)
        run(scheduler)
    return work
