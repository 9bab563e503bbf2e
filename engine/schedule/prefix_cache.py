"""Prefix caching: a full block is named by the hash of its tokens and of everything before it."""

from __future__ import annotations

import hashlib
from array import array

from engine.schedule.block_pool import BlockPool
from engine.schedule.request import Request


class PrefixCache:
    """Finds and publishes blocks of equal prompt beginnings.

    The chain starts from the request's salt, so that requests with different salts share nothing. Hashes are 128-bit
    BLAKE2b: equal hashes are taken for equal tokens.
    """

    def __init__(self, pool: BlockPool, block_size: int, enabled: bool) -> None:
        self._pool = pool
        self._block_size = block_size
        self.enabled = enabled

    def match(self, request: Request) -> list[int]:
        """Blocks with the longest cached beginning of the request's tokens.

        The last token is never taken from the cache: its logits have to be computed.
        """
        if not self.enabled or not request.reads_prefix_cache:
            return []
        found = []
        for number in range((request.total - 1) // self._block_size):
            block = self._pool.find(self._hash(request, number))
            if block is None:
                break
            found.append(block)
        return found

    def publish(self, request: Request, tokens: int) -> None:
        """Seal the request's blocks that its first ``tokens`` tokens fill, as far as those tokens are known."""
        known = tokens - 1 if tokens == request.total and request.pending else tokens
        if not self.enabled:
            return
        for number in range(request.published, known // self._block_size):
            self._pool.seal(request.blocks[number], self._hash(request, number))
            request.published = number + 1

    def prompt_hashes(self, request: Request, most: int) -> list[bytes]:
        """Hashes of the prompt's leading full blocks, at most so many."""
        count = min(most, len(request.prompt) // self._block_size)
        return [self._hash(request, number) for number in range(count)]

    def _hash(self, request: Request, number: int) -> bytes:
        """Hash of block ``number``; a request's tokens never change, so each is computed once."""
        hashes = request.block_hashes
        while len(hashes) <= number:
            start = len(hashes) * self._block_size
            tokens = request.tokens(start, start + self._block_size)
            digest = hashlib.blake2b(hashes[-1] if hashes else request.salt, digest_size=16)
            digest.update(array("q", tokens).tobytes())
            hashes.append(digest.digest())
        return hashes[number]
