"""Grouping by shared leading blocks, against what it promises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.execute.cascade_groups import cascade_groups


def tree(spec: list[tuple[int, ...]], length: int) -> list[list[int]]:
    """Tables in which sequences with equal paths share blocks: a block is named by the path to it."""
    names: dict[tuple[int, ...], int] = {}
    return [[names.setdefault((*path[: n + 1], *(() if n < len(path) else (i, n))), len(names)) for n in range(length)]
            for i, path in enumerate(spec)]  # fmt: skip


@given(st.lists(st.lists(st.integers(0, 1), max_size=8).map(tuple), max_size=20), st.integers(1, 3), st.integers(2, 4))
def test_members_agree_in_all_common_blocks(paths: list[tuple[int, ...]], step: int, least: int) -> None:
    tables = tree(paths, 9)
    contexts = [i % 9 for i in range(len(tables))]
    groups = cascade_groups(tables, contexts, step, least)
    seen: set[int] = set()
    for members, common in groups:
        assert common > 0
        assert common % step == 0
        assert len(members) >= least
        assert len({tuple(tables[i][:common]) for i in members}) == 1
        assert all(common <= contexts[i] for i in members)
        assert not seen & set(members)
        seen |= set(members)


def test_a_group_splits_where_that_reads_less() -> None:
    few_shot = tree([(0, 0, shot, shot) for shot in range(3) for _ in range(10)], 6)
    groups = cascade_groups(few_shot, [6] * 30, 1, 2)
    assert sorted(groups) == [(list(range(10 * s, 10 * s + 10)), 4) for s in range(3)]
    # Two that agree in one block more than the other eight: reading the common 4 once more would cost more.
    pair = tree([(0, 0, 0, 0, i < 2) for i in range(10)], 6)
    assert sorted(cascade_groups(pair, [5] * 10, 1, 2)) == [([0, 1], 4), (list(range(2, 10)), 5)]


def test_nothing_shared_is_no_group() -> None:
    assert cascade_groups(tree([(i,) for i in range(9)], 4), [4] * 9, 1, 2) == []
