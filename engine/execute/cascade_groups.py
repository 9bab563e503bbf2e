"""Which sequences of a batch share their leading blocks, so that attention may read those once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

Group = tuple[list[int], int]


def cascade_groups(tables: Sequence[Sequence[int]], contexts: Sequence[int], step: int, least: int) -> list[Group]:
    """Group sequences by common leading blocks, each sequence at most once.

    A physical block is shared only by sequences that agree in all tokens up to its end, so one block speaks for those
    before it. Members that have ``step`` more blocks in common become a group of their own where that reads less: it
    saves those blocks for all of them but one, and costs one more reading of what the whole group has in common.

    Args:
        tables: block numbers of each sequence.
        contexts: leading blocks of each sequence that may be shared.
        step: blocks that are shared or not as a whole.
        least: fewest members of a group.

    Returns:
        (members, common blocks): members ascending, common blocks a positive multiple of ``step``
    """
    groups: list[Group] = []
    pending: list[Group] = [(list(range(len(tables))), 0)]
    while pending:
        members, common = pending.pop()
        branches: dict[int, list[int]] = {}
        stay = []
        for i in members:
            if common + step <= contexts[i]:
                branches.setdefault(tables[i][common + step - 1], []).append(i)
            else:
                stay.append(i)
        for branch in branches.values():
            alone = len(branch) == len(members)
            if len(branch) >= least and (alone or (len(branch) - 1) * step >= common):
                pending.append((branch, common + step))
            else:
                stay += branch
        if common and len(stay) >= least:
            groups.append((sorted(stay), common))
    return groups
