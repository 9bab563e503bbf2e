"""A load: each row becomes a request at its own moment, timed from then, whatever the engine does meanwhile.

Open loads know every arrival before they begin and never wait for an answer, so an engine that stalls cannot thin out
the load that it is measured under (no coordinated omission). Only what is under way is held.
"""

from __future__ import annotations

import asyncio
import selectors
from array import array
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from runner.config.load import ConcurrencyLoad, OnlineLoad, OpenLoad, PoissonLoad, SaturationLoad
from runner.drive import Placed
from runner.interrupts import Interrupts
from runner.load.arrivals import arrivals
from runner.load.engine import LoadEngine
from runner.load.goodput import is_good
from runner.load.phases import MEASURED, WARMUP, phase_of
from runner.load.search import Search, Tally
from runner.recorder import Output, Recorder, Refused, Request, Sent

LOOK_SECONDS = 0.1  # between looks for a signal
Loops = Callable[[], asyncio.AbstractEventLoop]


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes up within about 0.1 ms; asyncio's own, on epoll, rounds every wait up to whole ms."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


@dataclass
class LoadDrive:
    """One session's way of rows through an asynchronous engine.

    Args:
        earlier: what earlier sessions did of a search's trials.
        loops: makes the event loop; its clock is the load's.
    """

    recorder: Recorder
    interrupts: Interrupts
    load: OnlineLoad
    earlier: Mapping[int, Tally] = field(default_factory=dict)
    loops: Loops = precise_loop

    def run(self, engine: LoadEngine, rows: Iterator[Placed]) -> None:
        """Run the load to its end.

        Raises:
            Interrupted: a signal arrived; requests under way were ended, and those that finished are with the writer.
            Exception: whatever ended the engine.
        """
        with self.interrupts.shielded(), asyncio.Runner(loop_factory=self.loops) as runner:
            runner.run(self._watched(_Session(self.recorder, engine, self.load, self.earlier).run(rows)))

    async def _watched(self, work: Coroutine[None, None, None]) -> None:
        """Run, and give up when a signal arrives; then leaving the shield raises it."""
        task = asyncio.create_task(work)
        while not task.done() and not self.interrupts.pending:
            await asyncio.wait([task], timeout=LOOK_SECONDS)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise _first(error)


@dataclass
class _Session:
    """Inside the event loop."""

    recorder: Recorder
    engine: LoadEngine
    load: OnlineLoad
    earlier: Mapping[int, Tally]

    async def run(self, rows: Iterator[Placed]) -> None:
        """The warm-up to its last answer, then the load, which so begins with an engine that is warm and idle."""
        load, queue = self.load, _Rows(rows)
        warmup, measured = _Phase(WARMUP, 0), _Phase(MEASURED, load.warmup)
        if isinstance(load, SaturationLoad):
            await self._open(queue.before(load.warmup), PoissonLoad(rate=load.rate_min, seed=load.seed), warmup)
            await self._search(load, queue)
        elif isinstance(load, ConcurrencyLoad):
            await self._closed(queue.before(load.warmup), load.users, None, WARMUP)
            await self._closed(queue.before(None), load.users, load.duration_s, MEASURED)
        else:
            assert isinstance(load, OpenLoad)
            await self._open(queue.before(load.warmup), load, warmup)
            await self._open(queue.before(None), load, measured)

    async def _open(self, rows: Iterable[Placed], load: OpenLoad, phase: _Phase) -> None:
        """Send every row at its moment of the schedule, which begins with the phase's first row."""
        loop = asyncio.get_running_loop()
        schedule, origin = enumerate(arrivals(load), phase.first), None
        async with asyncio.TaskGroup() as group:
            for place, row in rows:
                moment = next(moment for number, moment in schedule if number == place)
                request = self.recorder.request(row)  # before its moment, so that it is sent in time
                if origin is None:  # a resumed load goes on at the first row that is missing
                    origin = loop.time() - (moment if place > phase.first else 0.0)
                sent = Sent(origin + moment, phase.name)
                await asyncio.sleep(max(sent.arrival - loop.time(), 0.0))
                group.create_task(self._ask(place, request, sent, phase.tally))

    async def _closed(self, rows: Iterator[Placed], users: int, seconds: float | None, phase: str) -> None:
        """So many users, each of whom sends the next row when the last one is answered."""
        loop = asyncio.get_running_loop()
        end = float("inf") if seconds is None else loop.time() + seconds

        async def user() -> None:
            while loop.time() < end and (placed := next(rows, None)) is not None:
                request = self.recorder.request(placed.row)
                await self._ask(placed.place, request, Sent(loop.time(), phase), None)

        async with asyncio.TaskGroup() as group:
            for _ in range(users):
                group.create_task(user())

    async def _search(self, load: SaturationLoad, queue: _Rows) -> None:
        """Trials one after the other, each on the next rows and from an idle engine, until the search ends."""
        search = Search(load)
        search.replay(self.earlier)
        while (rate := search.next_rate()) is not None:
            number = len(search.trials)
            first = load.warmup + number * load.trial_requests
            tally = replace(self.earlier.get(number, Tally()))
            schedule = PoissonLoad(rate=rate, seed=load.seed)  # one seed: the same pattern, faster or slower
            own = queue.before(first + load.trial_requests)
            await self._open(own, schedule, _Phase(phase_of(number), first, tally))
            if tally.requests < load.trial_requests:  # the dataset has ended
                return
            search.tell(tally)

    async def _ask(self, place: int, request: Request | Refused, sent: Sent, tally: Tally | None) -> None:
        """One request from its sending to its record."""
        if isinstance(request, Refused):
            entry = self.recorder.refuse(request, sent)
        else:
            entry = self.recorder.finish(request.row, await self._last_output(place, request, sent), sent)
        if tally is not None:
            tally.add(is_good(entry, self.load.goodput.declared))

    async def _last_output(self, place: int, request: Request, sent: Sent) -> Output:
        """Send a request and read its outputs; only the gaps between them are kept."""
        loop = asyncio.get_running_loop()
        sent.sent, sent.gaps = loop.time(), array("f")
        output: Output | None = None
        before = 0.0
        async for latest in self.engine.ask(request, str(place)):
            now = loop.time()
            if output is not None:
                sent.gaps.append(now - before)
            before, output = now, latest
        assert output is not None, "an engine gives at least one output"
        return output


@dataclass(frozen=True)
class _Phase:
    """A part of a load, whose first row is at the place ``first``; ``tally`` counts a trial's good requests."""

    name: str
    first: int
    tally: Tally | None = None


class _Rows:
    """Rows that are taken up to a place; one that is beyond it stays for the next."""

    def __init__(self, rows: Iterator[Placed]) -> None:
        self._rows = rows

    def before(self, place: int | None) -> Iterator[Placed]:
        """The rows before a place; ``None``: all that are left. None is taken from the dataset that is not given out,
        but where rows are missing from it (those that an earlier session did)."""
        last = -1
        while (place is None or last < place - 1) and (placed := next(self._rows, None)) is not None:
            if place is not None and placed.place >= place:
                self._rows = chain([placed], self._rows)
                return
            last = placed.place
            yield placed


def _first(error: BaseException) -> BaseException:
    """Of what several requests raised, the first one's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
