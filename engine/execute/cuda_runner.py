"""Runs step plans on a CUDA device: a step is one captured graph, sampling included.

A step's inputs are a few numbers per token, sent in one copy; what a request keeps (block table, sampling parameters,
the token drawn last) lives in rows on the device. Long steps with prompts are launched kernel by kernel: they keep the
device busy for longer than that takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from engine.execute.batch_rows import BatchRows, to_device
from engine.execute.launched import Launched, RowLogprobs
from engine.execute.model_runner import score_prompt
from engine.execute.sampler import RawLogprobs, Sample, sample
from engine.execute.shared_blocks import SharedBlocks
from engine.execute.step_graphs import Computed, StepGraphs
from engine.execute.step_layout import Geometry, StepLayout, StepShape, lay_out, row_bucket, sections
from engine.model.decoder import Decoder, DecoderBatch
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request
from kernels.attention import CudaAttentionBatch
from kernels.cuda.decode_plan import allocate_plan, plan_decode
from kernels.cuda.numerics import PIECE
from kernels.identity import kernel_id
from kernels.kv_cache import LayerCache, allocate
from kernels.sample import SamplingRows
from kernels.sample import sample as draw
from kernels.step_inputs import row_inputs, token_inputs

LARGEST_CAPTURED = 1024  # tokens of a step with prompts


class CudaModelRunner:
    """Owns the model, the KV cache's tensors, the rows of running requests, and the graphs."""

    def __init__(
        self,
        model: Decoder,
        blocks: int,
        block_size: int,
        device: torch.device,
        *,
        max_seqs: int,
        max_len: int,
        enforce_eager: bool,
        cascade: bool,
    ) -> None:
        spec = model.spec
        self.model = model
        self.block_size = block_size
        self.device = device
        self.caches: list[LayerCache] = [
            allocate(blocks, block_size, spec.kv_heads, spec.head_dim, model.dtype, device) for _ in range(spec.layers)
        ]
        self._rows = BatchRows(max_seqs, -(-max_len // block_size), device)
        pieces = max_seqs * -(-max_len // PIECE)
        most = row_bucket(max_seqs)  # padding included
        self._plan = allocate_plan(most, pieces, spec.heads, spec.head_dim, spec.sliding_window, device)
        self._unshared = torch.zeros(most, dtype=torch.int32, device=device)
        group_size = spec.heads // spec.kv_heads
        self._shared = SharedBlocks(most, max_len, block_size, group_size, device) if cascade else None
        self._graphs = None if enforce_eager else StepGraphs(self._step, device)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Start one step; its tokens are on their way to the host when this returns."""
        self._rows.follow(plan.slices)
        decoding: list[Slice] = []
        others: list[Slice] = []
        for part in plan.slices:  # the device itself drew the token of those that decode
            decodes = part.stop - part.start == 1 and part.samples and self._rows[part.request].fed == part.start
            (decoding if decodes else others).append(part)
        layout = self._lay_out(decoding, others)
        numbers = torch.from_numpy(layout.numbers)
        scored: dict[Request, Sequence[RawLogprobs]] = {}
        if self._graphs is not None and self._captured(others):
            computed = self._graphs.run(layout.shape, numbers.pin_memory())
        else:
            computed = self._step(layout.shape, to_device(layout.numbers, self.device))
            scored = self._score_prompts(computed.hidden, len(decoding), others)
        again = self._sample_special(computed.logits, layout.sampling)
        for part in layout.sampling:
            self._rows[part.request].fed = part.stop
        return Launched(layout.sampling, computed.tokens, self._logprobs(computed, layout.sampling), again, scored)

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Not where a request's next draw depends on tokens that the host must know."""
        return not any(_special(request) for request in self._rows.slow)

    def numerics(self) -> Mapping[str, str]:
        """What the tokens depend on beside weights and requests."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "kernels": kernel_id(self.device),
        }

    def _lay_out(self, decoding: Sequence[Slice], others: Sequence[Slice]) -> StepLayout:
        spec = self.model.spec
        geometry = Geometry(spec.heads, spec.kv_heads, spec.head_dim)
        padded = self._graphs is not None and self._captured(others)
        layout = lay_out(decoding, others, self._rows, geometry, padded)
        shared = self._shared is not None and self._shared.follow(decoding)
        return replace(layout, shape=replace(layout.shape, shared=shared))

    def _captured(self, others: Sequence[Slice]) -> bool:
        """Whether a step with these slices of prompts is replayed: not where the prompts themselves are scored."""
        return not any(_scored(part) for part in others) and _tokens(others) <= LARGEST_CAPTURED

    def _step(self, shape: StepShape, numbers: torch.Tensor) -> Computed:
        """A step from its numbers to its tokens, all on the device; only launches, so that it can be captured."""
        inputs = sections(numbers, shape)
        hidden = self.model.hidden_states(self._batch(shape, inputs), self.caches)
        if not shape.rows:
            return Computed(hidden, hidden[:0], torch.empty(0, dtype=torch.int64, device=self.device))
        rows = row_inputs(self._rows.state, inputs["positions"], inputs["owners"], inputs.get("ends"))
        logits = self.model.head(hidden[rows.ends] if shape.tiles else hidden)
        drawn = draw(
            logits,
            SamplingRows(rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seeds, rows.positions),
            shape.filtered,
            ranked=False,
        )
        self._rows.state.last[rows.owners] = drawn.tokens
        return Computed(hidden, logits, drawn.tokens)

    def _batch(self, shape: StepShape, inputs: Mapping[str, torch.Tensor]) -> DecoderBatch:
        """Tokens, their places in the cache, and attention's work."""
        state, positions, count = self._rows.state, inputs["positions"], shape.rows
        ids, decoding = inputs.get("ids"), inputs.get("decoding")
        tokens = token_inputs(state, positions, inputs["owners"], ids, decoding, count, self.block_size)
        prefixes = self._shared.prefixes if self._shared is not None and shape.shared else None
        if count:
            shared = self._unshared if prefixes is None else prefixes.pieces
            plan_decode(self._plan, tokens.contexts, shared[:count])
        attention = CudaAttentionBatch(
            decoding=count,
            decode_tables=tokens.tables,
            contexts=tokens.contexts,
            plan=self._plan,
            prefixes=prefixes,
            prefill_tables=state.tables,
            tiles=inputs["tiles"].view(-1, 4) if shape.tiles else None,
        )
        return DecoderBatch(tokens.tokens, positions, tokens.slots, attention)

    def _score_prompts(
        self, hidden: torch.Tensor, first: int, others: Sequence[Slice]
    ) -> dict[Request, Sequence[RawLogprobs]]:
        """Log-probabilities of prompt tokens, for those who ask: hidden [tokens, hidden], others from ``first`` on."""
        scored: dict[Request, Sequence[RawLogprobs]] = {}
        at = first
        for part in others:
            length = part.stop - part.start
            if _scored(part):
                scored[part.request] = score_prompt(self.model, hidden[at : at + length], part)
            at += length
        return scored

    def _sample_special(self, logits: torch.Tensor, parts: Sequence[Slice]) -> dict[Request, Sample]:
        """Draw again for requests that need more than the fused draw; waits for the step."""
        special = [i for i, part in enumerate(parts) if _special(part.request)] if self._rows.slow else []
        if not special:
            return {}
        requests = [parts[i].request for i in special]
        again = dict(zip(requests, sample(logits[special].float(), requests), strict=True))
        rows = torch.tensor([self._rows[request].number for request in requests], device=self.device)
        self._rows.state.last[rows] = torch.tensor([again[request].token for request in requests], device=self.device)
        return again

    def _logprobs(self, computed: Computed, parts: Sequence[Slice]) -> RowLogprobs | None:
        """Log-probabilities for the rows that ask for them, on their way to the host."""
        if not self._rows.slow:
            return None
        asking = {
            i: part.request.params.logprobs
            for i, part in enumerate(parts)
            if part.request.params.logprobs is not None and not _special(part.request)
        }
        return RowLogprobs(computed.logits, computed.tokens, asking) if asking else None


def _tokens(parts: Sequence[Slice]) -> int:
    return sum(part.stop - part.start for part in parts)


def _scored(part: Slice) -> bool:
    """Whether the slice holds prompt tokens whose successors' log-probabilities are asked for."""
    return part.request.params.prompt_logprobs is not None and part.start < len(part.request.prompt) - 1


def _special(request: Request) -> bool:
    """Whether a request needs more than the fused draw: penalties, masked stops."""
    return request.params.has_penalties or len(request.output) < request.params.min_tokens
