"""The block pool against lists and dicts that do the same naively."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.schedule.block_pool import BlockPool

KEYS = st.integers(0, 12).map(lambda number: bytes([number]))


class PoolAgainstLists(RuleBasedStateMachine):
    """Model: a list of free blocks, longest unused first; a dict of hashes; the block lists that holders have."""

    @initialize(size=st.integers(1, 12))
    def start(self, size: int) -> None:
        self.pool = BlockPool(size)
        self.free = list(range(size))
        self.keys: dict[bytes, int] = {}
        self.holders: list[list[int]] = []

    @rule(count=st.integers(0, 6))
    def allocate(self, count: int) -> None:
        blocks = self.pool.allocate(count)
        if count > len(self.free):
            assert blocks is None
            return
        expected, self.free = self.free[:count], self.free[count:]
        assert blocks == expected, "blocks come in the order of least recent use"
        self.keys = {key: block for key, block in self.keys.items() if block not in expected}
        self.holders.append(expected)

    @rule(key=KEYS)
    def share(self, key: bytes) -> None:
        block = self.pool.find(key)
        assert block == self.keys.get(key)
        if block is not None:
            self.pool.share(block)
            self.free = [other for other in self.free if other != block]
            self.holders.append([block])

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        blocks = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(blocks)
        held = {block for other in self.holders for block in other}
        self.free += [block for block in reversed(blocks) if block not in held]

    @precondition(lambda self: any(self.holders))
    @rule(data=st.data(), key=KEYS)
    def seal(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from([block for blocks in self.holders for block in blocks]))
        if block in self.keys.values():
            return  # a block is sealed once: its content does not change while it is held
        self.pool.seal(block, key)
        self.keys.setdefault(key, block)

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        self.keys = {}

    @invariant()
    def same_state(self) -> None:
        self.pool.check(self.holders)
        assert self.pool.free == len(self.free)
        assert self.pool.held == self.pool.size - len(self.free)
        for number in range(13):
            assert self.pool.find(bytes([number])) == self.keys.get(bytes([number]))


TestPoolAgainstLists = PoolAgainstLists.TestCase
TestPoolAgainstLists.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_too_large_an_allocation_changes_nothing() -> None:
    pool = BlockPool(3)
    held = pool.allocate(2)
    assert held == [0, 1]
    assert pool.allocate(2) is None
    pool.check([held])
    assert pool.allocate(1) == [2]


def test_sealed_block_is_found_until_it_is_handed_out_again() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1) or []
    pool.seal(block, b"x")
    pool.release([block])
    assert pool.find(b"x") == block
    assert pool.allocate(1) == [1], "the block never used goes first"
    assert pool.find(b"x") == block
    assert pool.allocate(1) == [block]
    assert pool.find(b"x") is None


def test_beginning_of_a_sequence_outlives_its_end() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3)
    assert blocks is not None
    pool.release(blocks)
    assert pool.allocate(2) == [2, 1]


def test_first_block_sealed_under_a_hash_stays() -> None:
    pool = BlockPool(2)
    pool.allocate(2)
    pool.seal(0, b"x")
    pool.seal(1, b"x")
    assert pool.find(b"x") == 0


@pytest.mark.parametrize("holders", [[], [[0], [0]], [[1]]])
def test_check_sees_a_wrong_count(holders: list[list[int]]) -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check(holders)
