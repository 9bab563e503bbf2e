"""Runs step plans on the CPU: lays tokens out, computes the model, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from engine.execute.runner import StepResult
from engine.execute.sampler import RawLogprobs, raw_logprobs, sample
from engine.execute.verify import Rows
from engine.model.decoder import Decoder, DecoderBatch
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request
from kernels.attention import AttentionBatch
from kernels.identity import kernel_id
from kernels.kv_cache import LayerCache, allocate

PROMPT_LOGITS_ROWS = 64  # rows of logits held at a time for prompt_logprobs


@dataclass(frozen=True)
class Done:
    """A step that is computed already."""

    value: StepResult

    def result(self) -> StepResult:
        """The step's result."""
        return self.value


class ModelRunner:
    """Owns the model and the KV cache's tensors."""

    def __init__(self, model: Decoder, blocks: int, block_size: int, device: torch.device) -> None:
        spec = model.spec
        self.model = model
        self.block_size = block_size
        self.device = device
        self.caches: list[LayerCache] = [
            allocate(blocks, block_size, spec.kv_heads, spec.head_dim, model.dtype, device) for _ in range(spec.layers)
        ]

    def launch(self, plan: StepPlan) -> Done:
        """Compute one step; it is done on return."""
        return Done(self._execute(plan))

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Never: the CPU that would plan the next step is the one that computes this one."""
        return False

    @torch.inference_mode()
    def _execute(self, plan: StepPlan) -> StepResult:
        sampling = [part for part in plan.slices if part.samples]
        hidden = self.model.hidden_states(self._batch(plan), self.caches)  # [tokens, hidden]
        ends: list[int] = []
        at = 0
        scored: dict[Request, Sequence[RawLogprobs]] = {}
        for part in plan.slices:
            length = part.stop - part.start
            ends += range(at + length - plan.rows(part), at + length)
            if part.request.params.prompt_logprobs is not None and part.start < len(part.request.prompt) - 1:
                scored[part.request] = score_prompt(self.model, hidden[at : at + length], part)
            at += length
        if not sampling:
            return StepResult({}, {}, scored)
        rows = torch.tensor(ends, device=self.device)
        drawing = Rows.of(plan, sampling)
        drawn = sample(self.model.logits(hidden[rows]), drawing.requests)
        logprobs = {row: one.logprobs for row, one in enumerate(drawn) if one.logprobs is not None}
        return replace(drawing.result([one.token for one in drawn], logprobs), prompt_logprobs=scored)

    def numerics(self) -> Mapping[str, str]:
        """What the tokens depend on beside weights and requests."""
        return {
            "device": self.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "packed_weights": str(self.model.head.packed),
            "kernels": kernel_id(self.device),
        }

    def _batch(self, plan: StepPlan) -> DecoderBatch:
        """Lay the plan's tokens out one sequence after the other."""
        tokens: list[int] = []
        positions: list[int] = []
        starts = [0]
        for part in plan.slices:
            tokens += plan.token_ids(part)
            positions += range(part.start, part.stop)
            starts.append(len(tokens))
        width = max(len(part.request.blocks) for part in plan.slices)
        tables = torch.tensor(
            [part.request.blocks + [0] * (width - len(part.request.blocks)) for part in plan.slices], dtype=torch.int32
        )
        at = torch.tensor(positions)
        owner = torch.repeat_interleave(torch.tensor([part.stop - part.start for part in plan.slices]))
        slots = tables[owner, at // self.block_size].long() * self.block_size + at % self.block_size
        return DecoderBatch(
            tokens=torch.tensor(tokens).to(self.device),
            positions=at.to(self.device),
            slots=slots.to(self.device),
            attention=AttentionBatch(starts, [part.stop for part in plan.slices], tables.to(self.device)),
        )


def score_prompt(model: Decoder, hidden: torch.Tensor, part: Slice) -> list[RawLogprobs]:
    """Log-probabilities of the prompt tokens that follow the slice's own, a bounded number of rows at a time."""
    request = part.request
    count = request.params.prompt_logprobs
    assert count is not None
    targets = request.prompt[part.start + 1 : part.stop + 1]
    scored: list[RawLogprobs] = []
    for first in range(0, len(targets), PROMPT_LOGITS_ROWS):
        chunk = targets[first : first + PROMPT_LOGITS_ROWS]
        logits = model.logits(hidden[first : first + len(chunk)])
        scored += [raw_logprobs(row, token, count) for row, token in zip(logits, chunk, strict=True)]
    return scored
