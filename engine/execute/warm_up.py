"""The first steps of an engine, before anybody's."""

from __future__ import annotations

from engine.execute.runner import Runner
from engine.params import SamplingParams
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request, Status

KINDS = (
    SamplingParams(temperature=0.0),
    SamplingParams(top_k=2, top_p=0.9, min_p=0.01),
    SamplingParams(temperature=0.0, repetition_penalty=1.1),
)
"""One of each way that logits take to a token; what is rarer (masks, biases) compiles nothing of its own."""


def warm_up(runner: Runner, length: int, block_size: int) -> None:
    """Run a prompt and a decode step of each kind, so that what comes only once is not in a request's time.

    A CPU's kernels are compiled at their first call on a machine, which takes some ten seconds, and read from disk at
    their first call in a process; weights are in memory once they have been read. What the steps leave in the cache's
    first blocks is never read: they are not published, and whoever gets them writes them first.

    Args:
        runner: as it was built, before its first request.
        length: ``max_model_len``.
        block_size: of the cache, which has the blocks of at least one sequence of this length.
    """
    blocks = list(range(-(-min(3, length) // block_size)))
    for number, params in enumerate(KINDS):
        request = Request(number, [0] * min(2, length), params, max_output=1, blocks=blocks, status=Status.RUNNING)
        _step(runner, request)
        if request.total < length:
            request.computed = request.total
            request.output.append(0)
            _step(runner, request)
        request.status = Status.FINISHED


def _step(runner: Runner, request: Request) -> None:
    runner.launch(StepPlan([Slice(request, request.computed, request.total, True, 0)])).result()
