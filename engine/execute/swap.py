"""Blocks of preempted requests in host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch

from engine.execute.logits_processing import Masks
from engine.execute.runner import Launched, Runner
from engine.schedule.plan import StepPlan
from kernels.kv_cache import LayerCache

STAGED_BYTES = 64 << 20  # device memory that copies pass through

Pairs = Sequence[tuple[int, int]]  # (device block, host slot)


class SwapSpace:
    """Copies cache blocks to slots of host memory and back.

    A slot holds a block of all layers, keys and values, in one piece: layers are gathered on the device into a staging
    buffer, and slots that follow one another cross to the host in one copy. All of that is launched on the current
    stream and never waited for: copies see what the steps before them wrote, the steps after them see what they bring,
    and a slot or the buffer is written only when the copies launched before have read it. On a CUDA device that takes
    pinned host memory (``pin``), which copies without the host's help. Memory is allocated at the first copy.
    """

    def __init__(self, caches: Sequence[LayerCache], slots: int, pin: bool) -> None:
        """Room for ``slots`` blocks of the layers' ``caches``."""
        self._tensors = [tensor for cache in caches for tensor in (cache.keys, cache.values)]
        self._size = slots
        self._pin = pin
        self._host = torch.empty(0)
        self._staging = torch.empty(0)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> None:
        """A plan's copies, which go before its kernels."""
        if plan.swap_out:
            self.out(plan.swap_out)
        if plan.swap_in:
            self.in_(plan.swap_in)

    def out(self, pairs: Pairs) -> None:
        """Copy blocks from the device to slots of the host."""
        self._allocate()
        for blocks, slots in self._batches(pairs):
            for i, tensor in enumerate(self._tensors):
                self._staging[: len(slots), i] = tensor[blocks].flatten(1)
            for first, last, slot in _runs(slots):
                self._host[slot : slot + last - first].copy_(self._staging[first:last], non_blocking=True)

    def in_(self, pairs: Pairs) -> None:
        """Copy blocks from slots of the host to the device."""
        for blocks, slots in self._batches(pairs):
            for first, last, slot in _runs(slots):
                self._staging[first:last].copy_(self._host[slot : slot + last - first], non_blocking=True)
            for i, tensor in enumerate(self._tensors):
                tensor[blocks] = self._staging[: len(slots), i].view(len(slots), *tensor.shape[1:])

    def _allocate(self) -> None:
        if len(self._host):
            return
        first = self._tensors[0]
        shape = (len(self._tensors), first[0].numel())  # keys and values of each layer, a block's numbers
        staged = max(1, STAGED_BYTES // (shape[0] * shape[1] * first.element_size()))
        self._host = torch.empty(self._size, *shape, dtype=first.dtype, pin_memory=self._pin)
        self._staging = torch.empty(min(staged, self._size), *shape, dtype=first.dtype, device=first.device)

    def _batches(self, pairs: Pairs) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Device blocks, as an index on the device, and host slots, as many at once as the staging buffer holds."""
        ordered = sorted(pairs, key=lambda pair: pair[1])
        for start in range(0, len(ordered), len(self._staging)):
            batch = ordered[start : start + len(self._staging)]
            blocks = torch.tensor([block for block, _ in batch])
            if self._pin:
                blocks = blocks.pin_memory()
            yield blocks.to(self._staging.device, non_blocking=True), [slot for _, slot in batch]


class CachedRunner(Runner, Protocol):
    """A runner whose cache can be copied from outside."""

    caches: list[LayerCache]
    device: torch.device


class SwappingRunner:
    """Makes a plan's copies before the runner behind it launches the plan."""

    def __init__(self, inner: CachedRunner, slots: int) -> None:
        """Room for ``slots`` blocks on the host; a draft model's layers have blocks of another size."""
        self.inner = inner
        alike: dict[torch.Size, list[LayerCache]] = {}
        for cache in inner.caches:
            alike.setdefault(cache.keys.shape, []).append(cache)
        self._spaces = [SwapSpace(caches, slots, pin=inner.device.type == "cuda") for caches in alike.values()]

    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Launched:
        """Start one step, copies first."""
        for space in self._spaces:
            space.execute(plan)
        return self.inner.launch(plan, masks)

    def runs_ahead(self, plan: StepPlan) -> bool:
        """As the runner behind says."""
        return self.inner.runs_ahead(plan)

    def numerics(self) -> Mapping[str, str]:
        """As the runner behind says: copies change no number."""
        return self.inner.numerics()


def _runs(slots: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Stretches of slots that follow one another: the first and last place in the list, and the first slot."""
    first = 0
    for place in range(1, len(slots) + 1):
        if place == len(slots) or slots[place] != slots[place - 1] + 1:
            yield first, place, slots[first]
            first = place
