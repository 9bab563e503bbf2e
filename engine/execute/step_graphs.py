"""Captured steps: one CUDA graph per step shape, captured when the shape is first met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.execute.step_layout import StepShape


@dataclass(frozen=True)
class Computed:
    """What a step leaves on the device: final hidden states of its tokens, and logits and a token for each row."""

    hidden: torch.Tensor  # [tokens, hidden]
    logits: torch.Tensor  # [rows, vocab]
    tokens: torch.Tensor  # [rows] int64


Step = Callable[[StepShape, torch.Tensor], Computed]


@dataclass(frozen=True)
class StepGraph:
    """A captured step with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    numbers: torch.Tensor
    computed: Computed


class StepGraphs:
    """Replays steps. A replay overwrites what any earlier one computed: graphs share one pool of memory.

    What a graph computed is kept without owning its memory: else the logits of every graph would be memory of its own,
    and the largest one's serve all.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        """Capture ``step``: it must only launch kernels, and read nothing but shape, numbers and fixed tensors."""
        self._step = step
        self._device = device
        self._graphs: dict[StepShape, StepGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def run(self, shape: StepShape, numbers: torch.Tensor) -> Computed:
        """Start a step with these numbers (host, pinned)."""
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = self._capture(shape, numbers.to(self._device, non_blocking=True))
        else:
            graph.numbers.copy_(numbers, non_blocking=True)
        graph.graph.replay()
        return graph.computed

    def _capture(self, shape: StepShape, numbers: torch.Tensor) -> StepGraph:
        # Not torch.cuda.graph(): it waits for the device, collects garbage and empties the allocator's cache, which
        # takes longer than the capture and stops steps that are under way. Relaxed: kernels that this shape needs
        # first may be compiled and loaded while it is captured.
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
            try:
                computed = self._step(shape, numbers)
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        views = Computed(_unowned(computed.hidden), _unowned(computed.logits), _unowned(computed.tokens))
        return StepGraph(graph, numbers, views)


def _unowned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, of memory that may be given to others: here to the next graph captured in the same pool."""
    if not tensor.numel():
        return tensor
    assert tensor.is_contiguous()
    memory = _Memory(tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return torch.as_tensor(memory, device=tensor.device).view(tensor.dtype).view(tensor.shape)


class _Memory:
    """Bytes on the device that somebody else owns, as NumPy's and torch's array interface describes them."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}
