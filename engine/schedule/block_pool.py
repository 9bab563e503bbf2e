"""The pool of KV cache blocks: reference counts, a free list in least-recently-used order, the prefix cache's index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out blocks ``0 .. size-1`` and takes them back.

    A block is *held* while its reference count is above zero. A released block goes to the tail of the free list and
    keeps its content: as long as it is not handed out again, ``find`` still returns it by its hash. ``allocate`` takes
    from the head, the block unused for longest. All operations are O(1) per block.

    Invariants (``check``): a block is in the free list exactly when its count is zero; each hash names one block, and
    that block carries it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._refs = [0] * size
        self._hash: list[bytes | None] = [None] * size
        self._by_hash: dict[bytes, int] = {}
        # A doubly linked list over block numbers; the sentinel ``size`` closes the ring.
        self._next = [*range(1, size + 1), 0]
        self._prev = [size, *range(size)]
        self.free = size

    @property
    def held(self) -> int:
        """Blocks with a reference count above zero."""
        return self.size - self.free

    def allocate(self, count: int) -> list[int] | None:
        """Take ``count`` blocks with unknown content, or ``None`` when there are not so many free."""
        if count > self.free:
            return None
        blocks = []
        for _ in range(count):
            block = self._next[self.size]
            self._unlink(block)
            self._forget(block)
            self._refs[block] = 1
            blocks.append(block)
        return blocks

    def holders(self, block: int) -> int:
        """How many references to the block are held."""
        return self._refs[block]

    def claim(self, block: int) -> None:
        """The one holder of a block is going to write into it: it will not be found any more."""
        assert self._refs[block] == 1
        self._forget(block)

    def share(self, block: int) -> None:
        """Take one more reference to a block that is held or was found by its hash."""
        if self._refs[block] == 0:
            self._unlink(block)
        self._refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give references back, last block first: the end of a sequence is reused before its beginning, which others
        are likelier to share."""
        for block in reversed(blocks):
            self._refs[block] -= 1
            if self._refs[block] == 0:
                self._link(block)

    def find(self, block_hash: bytes) -> int | None:
        """The block that holds this content, if any."""
        return self._by_hash.get(block_hash)

    def seal(self, block: int, block_hash: bytes) -> None:
        """Publish a full block under its hash. Where another block has the same content already, that one stays."""
        if block_hash not in self._by_hash:
            self._by_hash[block_hash] = block
            self._hash[block] = block_hash

    def forget_all(self) -> None:
        """Drop the index: no block will be found until it is sealed again."""
        self._by_hash.clear()
        self._hash = [None] * self.size

    def check(self, holders: Iterable[Sequence[int]]) -> None:
        """Verify every invariant against the block lists that requests hold.

        Raises:
            AssertionError: a count, the free list or the index is wrong.
        """
        refs = [0] * self.size
        for blocks in holders:
            for block in blocks:
                refs[block] += 1
        assert refs == self._refs, "reference counts differ from what requests hold"
        listed, at = [], self._next[self.size]
        while at != self.size:
            listed.append(at)
            at = self._next[at]
        assert len(listed) == len(set(listed)) == self.free, "free list and free count differ"
        assert set(listed) == {b for b, count in enumerate(refs) if count == 0}, (
            "free list holds other blocks than the free"
        )
        assert all(self._hash[block] == key for key, block in self._by_hash.items()), (
            "index names a block without its hash"
        )
        assert sum(key is not None for key in self._hash) == len(self._by_hash), (
            "a block carries a hash that is not indexed"
        )

    def _link(self, block: int) -> None:
        last = self._prev[self.size]
        self._next[last] = self._prev[self.size] = block
        self._prev[block], self._next[block] = last, self.size
        self.free += 1

    def _unlink(self, block: int) -> None:
        before, after = self._prev[block], self._next[block]
        self._next[before], self._prev[after] = after, before
        self.free -= 1

    def _forget(self, block: int) -> None:
        key = self._hash[block]
        if key is not None:
            del self._by_hash[key]
            self._hash[block] = None
