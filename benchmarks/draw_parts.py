"""Where the time of a processed draw goes: its parts, on the host and on the device, and how it was done before."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from engine.execute import logits_processing, logits_state
from engine.execute.transfer import Parcel, to_device
from kernels import bitmask
from kernels.process_logits import LogitsEdits

PARTS = {
    "copy": (Parcel, "send"),
    "follow": (logits_state, "add_drawn_tokens"),
    "process": (logits_processing, "process_logits"),
    "apply masks": (logits_processing, "apply_bitmask"),
    "draw": (logits_processing, "draw"),
}
Micros = tuple[float, float]  # of the host, of the device


@dataclass
class Meter:
    """Adds up what parts take until it is asked. Device times are those between events in the stream."""

    device: torch.device
    _host: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured; may run in any thread."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before, start = self._event(), time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._host[name] += time.perf_counter() - start
                after = self._event()
                if before is not None and after is not None:
                    self._events.append((name, before, after))

        return run

    def _event(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> dict[str, Micros]:
        """Microseconds of each part since the last call; the device must be done."""
        if self._events:
            torch.cuda.synchronize()
        on_device: dict[str, float] = defaultdict(float)
        for name, before, after in self._events:
            on_device[name] += before.elapsed_time(after)
        found = {name: (1e6 * seconds, 1e3 * on_device[name]) for name, seconds in self._host.items()}
        self._host.clear()
        self._events.clear()
        return found

    def watch(self) -> None:
        """Measure the parts of every processed draw from now on."""
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, self.timed(name, getattr(owner, attribute)))


@contextmanager
def as_before(meter: Meter) -> Iterator[None]:
    """Draws with masks as they were: a copy for each list of numbers, rows gathered, masks spread out by torch.

    Only for rows that have a grammar and nothing else: what they add to logits is left out.
    """
    old: dict[tuple[Any, str], Any] = {
        (Parcel, "send"): meter.timed("copy", _send_one_by_one),
        (logits_processing, "process_logits"): meter.timed("process", _gather),
        (logits_processing, "apply_bitmask"): meter.timed("apply masks", _apply_in_torch),
    }
    new = {(owner, name): getattr(owner, name) for owner, name in old}
    for (owner, name), function in old.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name), function in new.items():
            setattr(owner, name, function)


def _send_one_by_one(parcel: Parcel, device: torch.device) -> None:
    parcel._sent = [to_device(np.stack(p) if isinstance(p, list) else np.asarray(p), device) for p in parcel._parts]


def _gather(logits: torch.Tensor, edits: LogitsEdits) -> torch.Tensor:
    return logits[edits.sources].float()


def _apply_in_torch(logits: torch.Tensor, rows: torch.Tensor, words: torch.Tensor) -> None:
    logits[rows] = bitmask.reference(logits[rows], words)
