"""Many requests with common beginnings, the limits under which they may run, and what each gives alone."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

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
    draw = random.Random(seed)
    beginnings = [[draw.randrange(3) for _ in range(8)] for _ in range(2)]
    return [
        request(
            index,
            draw.choice(beginnings)[: draw.randint(1, 8)] + [draw.randrange(3) for _ in range(draw.randint(0, 8))],
            draw.randint(1, 10),
            stop_ids=frozenset({STOP} if draw.random() < 0.5 else ()),
        )
        for index in range(count)
    ]


def run_alone(work: list[Request]) -> list[Request]:
    """The same requests, each having run by itself."""
    for one in work:
        scheduler = Scheduler(limits())
        scheduler.add(one)
        run(scheduler)
    return work
