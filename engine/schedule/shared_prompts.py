"""Completions of one prompt (``n`` > 1) share its blocks: one computes them, the others begin behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from engine.schedule.block_pool import BlockPool
from engine.schedule.request import Request

NEVER = -1


class Beginning(NamedTuple):
    """What is there already of a request that starts: its first ``tokens`` tokens, in whole ``blocks`` and, those
    behind them, in the first cells of the block ``tail``."""

    blocks: Sequence[int]
    tail: int | None
    tokens: int


@dataclass(slots=True)
class _Family:
    """The completions of a prompt while some of them have not started.

    ``waiting`` are those. ``leader`` runs and computes the prompt, its last token in step ``ready`` or, where it was
    preempted, before; from then on a reference to each of the prompt's ``blocks`` is kept.
    """

    waiting: set[Request] = field(default_factory=set)
    leader: Request | None = None
    ready: int = NEVER
    blocks: list[int] = field(default_factory=list)


class SharedPrompts:
    """The prompts of which several completions are to be made.

    The first completion that starts computes the prompt, and the others wait for it. Those that there is room for when
    it reaches the prompt's end are *forked* in that step: they draw from the same logits. Any that starts later
    computes the prompt's last token anew for its logits, and nothing else of it.

    The block in which the prompt ends is shared as a *tail*: the one that computed it writes on behind the prompt, the
    others never look there, and each copies the block before it writes its own first token.

    Blocks that only wait for completions to come are given up where another request lacks room; the next completion
    then computes the prompt again. All of it is as it would be with prefix caching, which may be off; a request that
    must not read the prefix cache takes no part but as the first.
    """

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self._pool = pool
        self._size = block_size
        self._families: dict[int, _Family] = {}

    def add(self, request: Request) -> None:
        """A request arrived."""
        if request.params.n > 1:
            self._families.setdefault(request.index, _Family()).waiting.add(request)

    def leader(self, request: Request, step: int) -> Request | None:
        """Who draws its first token in this step, from logits that the request, which waits, may draw from too."""
        family = self._of(request)
        if family is None or family.ready != step or request.output or family.leader is None or family.leader.output:
            return None
        return family.leader

    def is_coming(self, request: Request, step: int) -> bool:
        """Whether the request, which waits, should wait for another one that computes the prompt."""
        family = self._of(request)
        if family is None or request.output:
            return False
        return family.ready == step or (family.ready == NEVER and family.leader is not None)

    def find(self, request: Request, step: int) -> Beginning | None:
        """What a request that starts in this step finds of its prompt, all but its last token at least."""
        family = self._of(request)
        if family is None or family.ready in (NEVER, step):
            return None
        return self._beginning(family, min(len(request.prompt), request.total - 1))

    def fork(self, request: Request) -> Beginning:
        """What a request that is forked finds: the whole prompt."""
        return self._beginning(self._families[request.index], len(request.prompt))

    def start(self, request: Request) -> None:
        """The request, which has its blocks, runs from now on."""
        family = self._families.get(request.index)
        if family is None:
            return
        if family.ready == NEVER and family.leader is None:
            family.leader = request
        self._leave(family, request)

    def reach(self, request: Request, stop: int, step: int) -> None:
        """The request computes its tokens from ``computed`` up to ``stop`` in this step."""
        family = self._families.get(request.index) if self._families else None
        if family is not None and family.ready == NEVER and stop >= len(request.prompt):
            before = request.computed >= len(request.prompt)
            family.ready, family.leader = step - before, request
            family.blocks = request.blocks[: -(-len(request.prompt) // self._size)]
            for block in family.blocks:
                self._pool.share(block)

    def stop(self, request: Request) -> None:
        """The request runs no more, or will never run."""
        family = self._families.get(request.index) if self._families else None
        if family is not None and family.leader is request:
            family.leader = None

    def finish(self, request: Request) -> None:
        """The request has ended."""
        family = self._families.get(request.index) if self._families else None
        if family is not None:
            self._leave(family, request)

    def give_up(self, request: Request) -> bool:
        """Make room for a request that grows: free blocks that nobody runs with, else leave its tail to those who run.

        The prompts that came last go first. False where nothing is left to be given up.
        """
        wanted: set[int | None] = {*self.parked()} or {request.tail}
        for family in reversed(self._families.values()):
            if not wanted.isdisjoint(family.blocks):
                self._release(family)
                return True
        return False

    def parked(self) -> set[int]:
        """Blocks that nobody runs with."""
        kept = Counter(chain.from_iterable(self.held()))
        return {block for block, count in kept.items() if self._pool.holders(block) == count}

    def held(self) -> Iterator[Sequence[int]]:
        """The blocks to which references are kept."""
        return (family.blocks for family in self._families.values())

    def check(self, unfinished: Sequence[Request]) -> None:
        """Verify that nothing is kept for nobody; raises AssertionError."""
        for family in self._families.values():
            assert family.waiting, "a prompt is kept that nobody waits for"
            assert family.waiting <= set(unfinished), "a prompt is kept for requests that have ended"
            assert bool(family.blocks) == (family.ready != NEVER), "a prompt is ready without its blocks"

    def _of(self, request: Request) -> _Family | None:
        """The request's family, if it takes part."""
        if not self._families or not request.reads_prefix_cache:
            return None
        return self._families.get(request.index)

    def _beginning(self, family: _Family, tokens: int) -> Beginning:
        whole, rest = divmod(tokens, self._size)
        return Beginning(family.blocks[:whole], family.blocks[whole] if rest else None, tokens)

    def _leave(self, family: _Family, request: Request) -> None:
        family.waiting.discard(request)
        if not family.waiting:
            self._release(family)
            del self._families[request.index]

    def _release(self, family: _Family) -> None:
        self._pool.release(family.blocks)
        family.blocks, family.ready, family.leader = [], NEVER, None
