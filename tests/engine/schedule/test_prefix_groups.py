"""Requests with a common beginning run next to each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.steps import IGNORE, limits, request, run

GROUPS, MEMBERS, SHARED, OWN = 4, 8, 160, 8


def interleaved() -> list[Request]:
    """Members of the groups in turn, as a shuffled dataset has them."""
    return [request(i, [100 + i % GROUPS] * SHARED + [i] * OWN, 4, params=IGNORE) for i in range(GROUPS * MEMBERS)]


def computed(policy: str, blocks: int, work: Sequence[Request]) -> int:
    """Tokens that all steps together compute."""
    scheduler = Scheduler(limits(policy=policy, blocks=blocks, max_tokens=256, max_seqs=3))
    for one in work:
        scheduler.add(one)
    return sum(plan.tokens for plan in run(scheduler))


def test_small_cache_holds_one_beginning_at_a_time() -> None:
    once = GROUPS * SHARED + GROUPS * MEMBERS * (OWN + 3)
    room = SHARED // 4 * 2  # blocks for the beginnings of two groups, of four
    assert computed("prefix_grouped", room, interleaved()) == once
    assert computed("fcfs", room, interleaved()) > 3 * once
    assert computed("fcfs", 1024, interleaved()) == once, "a cache for all of them needs no order"


def order(prompts: Sequence[Sequence[int]], **fields: Sequence[int]) -> list[tuple[int, int]]:
    """Index and child of the requests as they start one by one."""
    scheduler = Scheduler(limits(policy="prefix_grouped", max_seqs=1))
    names = []
    for i, prompt in enumerate(prompts):
        child = fields["child"][i] if "child" in fields else 0
        scheduler.add(request(i - child, list(prompt), 1, child=child))
    for plan in run(scheduler):
        names += [(part.request.index, part.request.child) for part in plan.slices]
    return list(dict.fromkeys(names))


A, B, C = [1] * 4, [2] * 4, [3] * 4


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([A, B, A, B], [0, 2, 1, 3]),
        ([A + B, C, A + C, A + B, A], [0, 3, 2, 4, 1]),
        ([A + A + A, A + B + B, A + A + B, A + B + A, A + A + A], [0, 4, 2, 1, 3]),
        ([[1], B, [1], B], [0, 1, 3, 2]),
        ([[*A, 9], [*A, 8], B, [*A, 9]], [0, 1, 3, 2]),
    ],
    ids=["groups", "longer common beginnings", "groups in groups", "less than a block", "after the block"],
)
def test_order_is_the_prefix_tree_depth_first(prompts: list[list[int]], expected: list[int]) -> None:
    assert [index for index, _ in order(prompts)] == expected


def test_siblings_stay_in_order() -> None:
    assert order([A + B, A + B, A + C], child=[0, 1, 0]) == [(0, 0), (0, 1), (2, 0)]


def test_groups_of_finished_requests_are_forgotten() -> None:
    scheduler = Scheduler(limits(policy="prefix_grouped"))
    for index in range(50):
        scheduler.add(request(index, [index] * 12, 1))
    run(scheduler)
    assert not scheduler.requests._order._groups._nodes
    late, early = request(60, A, 1), request(61, [9] * 4, 1)
    scheduler.add(late)
    scheduler.add(early)
    scheduler.finish(late, "abort")
    assert len(scheduler.requests._order._groups._nodes) == 1
