"""A generation request as the scheduler sees it: tokens, progress and blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from engine.params import SamplingParams

PENDING = -1  # in ``output``: a token that a launched step is still drawing


class Status(Enum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Request:
    """One sequence to be completed. The scheduler owns every field below the first group.

    Prefill and decode are one thing: ``computed`` of the request's ``total`` tokens have their keys and values in the
    cache, and a step computes some of the rest. The step that reaches the last token also samples the next one.
    ``arrival`` is the number of the step before which the request came, ``place`` its place in the order; the first
    ``published`` of its ``blocks`` are in the prefix cache. ``tail`` is a block behind those, others' too, whose first
    cells hold the end of its prompt: it is copied before the request writes there. While it waits after a preemption
    with swap, ``slots`` are the host's copies of its blocks. ``lost`` tokens were computed before the last preemption.
    ``certain``: nothing but its bound can end the output. ``held``: it waits in line but must not start yet, which its
    owner decides.

    Args:
        index: arrival order; with ``child`` it names the request.
        child: which of the prompt's ``params.n`` completions this is.
        prompt: token ids; zeros where it came as ``embeds``.
        params: sampling parameters.
        max_output: most output tokens, already cut to the model's length.
        stop_ids: token ids that end the output.
        eos_ids: those of them that the model ends a sequence with: they are no ``stop_reason``.
        seed: of the request's noise.
        priority: lower runs first under the ``priority`` policy.
        salt: separates prefix cache entries of equal tokens.
        bad_words: sequences of token ids whose last one is not drawn where the output ends with those before it.
        embeds: a tensor [prompt tokens, hidden] in place of the prompt's token ids.
    """

    index: int
    prompt: list[int]
    params: SamplingParams
    max_output: int
    stop_ids: frozenset[int] = frozenset()
    eos_ids: frozenset[int] = frozenset()
    seed: int = 0
    priority: int = 0
    salt: bytes = b""
    child: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    embeds: Any = None

    arrival: int = 0
    place: tuple[int, ...] = ()
    output: list[int] = field(default_factory=list)
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    tail: int | None = None
    block_hashes: list[bytes] = field(default_factory=list)
    published: int = 0
    slots: list[int] = field(default_factory=list)
    held: bool = False
    lost: int = 0
    status: Status = Status.WAITING
    cached_tokens: int = 0
    preemptions: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    certain: bool = field(init=False)

    def __post_init__(self) -> None:
        self.certain = not self.stop_ids and not self.params.stop_strings

    @property
    def total(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> bool:
        """Whether the last token is still being drawn."""
        return bool(self.output) and self.output[-1] == PENDING

    @property
    def reads_prefix_cache(self) -> bool:
        """Whether cached blocks may stand in for computing: not where the prompt's own logits are asked for."""
        return self.params.prompt_logprobs is None

    def tokens(self, start: int, stop: int) -> list[int]:
        """Token ids at positions ``start`` to ``stop`` of prompt and output together."""
        prompt = len(self.prompt)
        if stop <= prompt:
            return self.prompt[start:stop]
        if start >= prompt:
            return self.output[start - prompt : stop - prompt]
        return self.prompt[start:] + self.output[: stop - prompt]
