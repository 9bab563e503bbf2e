"""Runs step plans on the CPU: lays tokens out, computes the model, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.execute.logits_processing import Masks
from engine.execute.logprobs import ROWS, RowLogprobs, in_order
from engine.execute.prompt_embeds import given_rows
from engine.execute.runner import StepResult
from engine.execute.sampler import Sampler
from engine.execute.transfer import to_device
from engine.execute.verify import Rows
from engine.logprobs import RawLogprobs
from engine.model.decoder import Decoder, DecoderBatch
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request
from kernels.attention import AttentionBatch
from kernels.identity import kernel_id
from kernels.kv_cache import LayerCache, allocate, copy_blocks


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
        self._sampler = Sampler(spec.vocab_size, device)
        self.caches: list[LayerCache] = [
            allocate(blocks, block_size, spec.kv_heads, spec.head_dim, model.dtype, device) for _ in range(spec.layers)
        ]

    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Done:
        """Compute one step; it is done on return. ``masks``: what grammars allow at this step."""
        return Done(self._execute(plan, masks))

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Never: the CPU that would plan the next step is the one that computes this one."""
        return False

    @torch.inference_mode()
    def _execute(self, plan: StepPlan, masks: Masks | None) -> StepResult:
        if plan.copies:
            copy_blocks(self.caches, plan.copies)
        slices = plan.computing
        sampling = [part for part in slices if part.samples]
        hidden = self.model.hidden_states(self._batch(plan, slices), self.caches)  # [tokens, hidden]
        ends: list[int] = []
        at = 0
        scored: dict[Request, Sequence[RawLogprobs]] = {}
        for part in slices:
            length = part.stop - part.start
            ends += range(at + length - plan.rows(part), at + length)
            if part.request.params.prompt_logprobs is not None and part.start < len(part.request.prompt) - 1:
                scored[part.request] = in_order(score_prompt(self.model, hidden[at : at + length], part))
            at += length
        if not sampling:
            return StepResult({}, {}, scored)
        logits = self.model.logits(hidden[torch.tensor(ends, device=self.device)])
        rows = Rows.of(plan, sampling)
        if plan.forks:
            logits = logits[rows.with_leaders(plan)]
            rows = Rows.of(plan, [*sampling, *plan.forked])
        tokens = self._sampler.draw(logits, rows.parts, {} if masks is None else masks(), plan.drafts)
        result = rows.result(tokens.tolist(), self._logprobs(logits, tokens, rows.parts))
        return replace(result, prompt_logprobs=scored)

    def _logprobs(self, logits: torch.Tensor, tokens: torch.Tensor, parts: Sequence[Slice]) -> dict[int, RawLogprobs]:
        """Log-probabilities for the rows that ask for them."""
        counts = [(i, part.request.params.logprobs) for i, part in enumerate(parts)]
        return RowLogprobs(logits, tokens, {i: count for i, count in counts if count is not None}).by_row()

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

    def _batch(self, plan: StepPlan, slices: Sequence[Slice]) -> DecoderBatch:
        """Lay the tokens of the plan's slices out one sequence after the other."""
        tokens: list[int] = []
        positions: list[int] = []
        starts = [0]
        for part in slices:
            tokens += plan.token_ids(part)
            positions += range(part.start, part.stop)
            starts.append(len(tokens))
        width = max(len(part.request.blocks) for part in slices)
        tables = torch.tensor(
            [part.request.blocks + [0] * (width - len(part.request.blocks)) for part in slices], dtype=torch.int32
        )
        at = torch.tensor(positions)
        owner = torch.repeat_interleave(torch.tensor([part.stop - part.start for part in slices]))
        slots = tables[owner, at // self.block_size].long() * self.block_size + at % self.block_size
        return DecoderBatch(
            tokens=torch.tensor(tokens).to(self.device),
            positions=at.to(self.device),
            slots=slots.to(self.device),
            attention=AttentionBatch(starts, [part.stop for part in slices], tables.to(self.device)),
            given=given_rows(slices, self.device, self.model.dtype),
        )


def score_prompt(model: Decoder, hidden: torch.Tensor, part: Slice) -> list[RowLogprobs]:
    """Log-probabilities of the prompt tokens that follow the slice's own, a bounded number of rows at a time."""
    request = part.request
    count = request.params.prompt_logprobs
    assert count is not None
    targets = to_device(np.array(request.prompt[part.start + 1 : part.stop + 1], np.int64), hidden.device)
    return [
        RowLogprobs(model.logits(rows), tokens, dict.fromkeys(range(len(tokens)), count))
        for rows, tokens in zip(hidden[: len(targets)].split(ROWS), targets.split(ROWS), strict=True)
    ]
