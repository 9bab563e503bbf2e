"""Runs step plans on a CUDA device: the decode step is one captured graph per batch bucket, sampling included.

A step that only decodes replays a graph: its inputs are a few numbers per sequence, sent in one copy, and its result is
one token per sequence. Every other step (prompts, chunks) runs the same kernels launch by launch. Block tables live on
the device, a row per running request; a step sends the blocks that are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from engine.execute.model_runner import score_prompt
from engine.execute.runner import StepResult
from engine.execute.sampler import RawLogprobs, Sample, sample
from engine.model.decoder import Decoder, DecoderBatch
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request
from kernels.attention import CudaAttentionBatch
from kernels.cuda.decode import allocate_plan, plan_decode
from kernels.cuda.numerics import PIECE
from kernels.cuda.prefill import prefill_tiles
from kernels.identity import kernel_id
from kernels.kv_cache import LayerCache, allocate
from kernels.sample import SamplingRows
from kernels.sample import sample as draw

INTS = ("tokens", "positions", "rows", "seeds", "top_k")
FLOATS = ("temperature", "top_p", "min_p")


@dataclass(frozen=True)
class StepInputs:
    """What a decode step is told, on the device: a column per sequence, padded to the bucket."""

    ints: torch.Tensor  # [len(INTS), bucket] int64
    floats: torch.Tensor  # [len(FLOATS), bucket] float32

    def named(self) -> dict[str, torch.Tensor]:
        """Each input as [bucket]."""
        return dict(zip(INTS, self.ints, strict=True)) | dict(zip(FLOATS, self.floats, strict=True))


@dataclass(frozen=True)
class DecodeGraph:
    """A captured decode step with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: StepInputs
    logits: torch.Tensor  # [bucket, vocab]
    tokens: torch.Tensor  # [bucket] int64


def bucket_of(count: int, most: int) -> int:
    """The captured batch size that serves ``count`` sequences: fine steps where a step is short, coarse ones beyond."""
    for limit, step in ((2, 1), (8, 2), (64, 8), (256, 16)):
        if count <= limit:
            return min(most, -(-count // step) * step)
    return min(most, -(-count // 32) * 32)


class CudaModelRunner:
    """Owns the model, the KV cache's tensors and the graphs.

    A running request holds a row of the block tables from its first step until it is no longer running; the last row
    belongs to nobody and pads batches.
    """

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
    ) -> None:
        spec = model.spec
        self.model = model
        self.block_size = block_size
        self.device = device
        self.max_seqs = max_seqs
        self.enforce_eager = enforce_eager
        self.caches: list[LayerCache] = [
            allocate(blocks, block_size, spec.kv_heads, spec.head_dim, model.dtype, device) for _ in range(spec.layers)
        ]
        width = -(-max_len // block_size)
        self._tables = torch.zeros(max_seqs + 1, width, dtype=torch.int32, device=device)
        self._rows: dict[Request, tuple[int, int, int]] = {}  # row, preemptions when taken, blocks sent
        self._free_rows = list(range(max_seqs - 1, -1, -1))
        pieces = max_seqs * -(-max_len // PIECE)
        self._plan = allocate_plan(max_seqs, pieces, spec.heads, spec.head_dim, spec.sliding_window, device)
        self._unshared = torch.zeros(max_seqs, dtype=torch.int32, device=device)
        self._graphs: dict[tuple[int, bool], DecodeGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step."""
        self._assign_rows(plan)
        decoding = [part for part in plan.slices if _decodes(part)]
        others = [part for part in plan.slices if not _decodes(part)]
        if not others and not self.enforce_eager:
            logits, tokens = self._replay(decoding)
            return StepResult(self._samples(decoding, logits, tokens))
        hidden = self.model.hidden_states(self._mixed_batch(decoding, others), self.caches)
        ordered, at, ends = [*decoding, *others], 0, []
        scored: dict[Request, Sequence[RawLogprobs]] = {}
        for part in ordered:
            length = part.stop - part.start
            if part.request.params.prompt_logprobs is not None and part.start < len(part.request.prompt) - 1:
                scored[part.request] = score_prompt(self.model, hidden[at : at + length], part)
            at += length
            ends.append(at - 1)
        sampling = [(part, end) for part, end in zip(ordered, ends, strict=True) if part.samples]
        if not sampling:
            return StepResult({}, scored)
        parts = [part for part, _ in sampling]
        logits = self.model.head(hidden[torch.tensor([end for _, end in sampling], device=self.device)])
        inputs = self._inputs(parts, len(parts))
        rows = self._sampling_rows(inputs.named())
        tokens = draw(logits, rows, _filtered(parts)).tokens
        return StepResult(self._samples(parts, logits, tokens), scored)

    def numerics(self) -> Mapping[str, str]:
        """What the tokens depend on beside weights and requests."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "kernels": kernel_id(self.device),
        }

    def _samples(self, parts: Sequence[Slice], logits: torch.Tensor, tokens: torch.Tensor) -> dict[Request, Sample]:
        """The drawn tokens; requests that ask for more than a draw are sampled again from their logits.

        Which way a request goes depends on itself alone, so that its tokens do not depend on the batch.
        """
        drawn = {part.request: Sample(token) for part, token in zip(parts, tokens.tolist(), strict=False)}
        special = [i for i, part in enumerate(parts) if _special(part.request)]
        if special:
            requests = [parts[i].request for i in special]
            drawn |= dict(zip(requests, sample(logits[special].float(), requests), strict=True))
        return drawn

    def _replay(self, parts: Sequence[Slice]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and tokens of a step that only decodes; the first of its bucket is captured on the way."""
        key = (bucket_of(len(parts), self.max_seqs), _filtered(parts))
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._capture(self._inputs(parts, key[0]), key[1])
        else:
            self._fill(graph.inputs, parts)
        graph.graph.replay()
        return graph.logits, graph.tokens

    def _capture(self, inputs: StepInputs, filtered: bool) -> DecodeGraph:
        # Relaxed: kernels that this bucket needs first may be compiled and loaded while it is captured.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="relaxed"):
            logits, tokens = self._decode(inputs, filtered)
        return DecodeGraph(graph, inputs, logits, tokens)

    def _decode(self, inputs: StepInputs, filtered: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The decode step from its inputs to its tokens, all on the device."""
        named = inputs.named()
        batch = self._decode_batch(named["tokens"], named["positions"], named["rows"])
        logits = self.model.head(self.model.hidden_states(batch, self.caches))
        return logits, draw(logits, self._sampling_rows(named), filtered).tokens

    def _decode_batch(self, tokens: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> DecoderBatch:
        """One token per sequence; padding has no context and no slot."""
        used = rows < self.max_seqs
        tables = self._tables[rows]  # [bucket, width]
        blocks = tables.gather(1, (positions // self.block_size)[:, None])[:, 0]
        slots = torch.where(used, blocks * self.block_size + positions % self.block_size, -1)
        contexts = torch.where(used, positions + 1, 0).int()
        plan_decode(self._plan, contexts, self._unshared[: len(rows)])
        return DecoderBatch(tokens, positions, slots, CudaAttentionBatch(len(rows), tables, self._plan))

    def _mixed_batch(self, decoding: Sequence[Slice], others: Sequence[Slice]) -> DecoderBatch:
        """Decoding sequences first, a token each, then the slices of prompts."""
        tokens: list[int] = []
        positions: list[int] = []
        starts = [0]
        for part in [*decoding, *others]:
            tokens += part.request.tokens(part.start, part.stop)
            positions += range(part.start, part.stop)
            starts.append(len(tokens))
        ordered = [*decoding, *others]
        lengths = torch.tensor([part.stop - part.start for part in ordered], device=self.device)
        rows = torch.tensor([self._rows[part.request][0] for part in ordered], device=self.device)
        at = torch.tensor(positions, device=self.device)
        owner = torch.repeat_interleave(rows, lengths, output_size=len(tokens))
        slots = self._tables[owner, at // self.block_size] * self.block_size + at % self.block_size
        count, spec = len(decoding), self.model.spec
        if count:
            contexts = torch.tensor([part.stop for part in decoding], dtype=torch.int32, device=self.device)
            plan_decode(self._plan, contexts, self._unshared[:count])
        tiles = prefill_tiles(
            [start - count for start in starts[count:]],
            [p.stop for p in others],
            spec.heads,
            spec.kv_heads,
            spec.head_dim,
        ).to(self.device)
        attention = CudaAttentionBatch(count, self._tables[rows[:count]], self._plan, self._tables[rows[count:]], tiles)
        return DecoderBatch(torch.tensor(tokens, device=self.device), at, slots, attention)

    def _assign_rows(self, plan: StepPlan) -> None:
        """Give each request of the plan a row of the block tables, and send the blocks that its row lacks."""
        planned = {part.request for part in plan.slices}
        for request, (row, preemptions, _) in list(self._rows.items()):
            if request not in planned or request.preemptions != preemptions:
                del self._rows[request]
                self._free_rows.append(row)
        cells: list[tuple[int, int, int]] = []
        for part in plan.slices:
            request = part.request
            row, _, sent = self._rows.get(request) or (self._free_rows.pop(), 0, 0)
            cells += [(row, number, request.blocks[number]) for number in range(sent, len(request.blocks))]
            self._rows[request] = (row, request.preemptions, len(request.blocks))
        if cells:
            where = torch.tensor(cells, device=self.device)
            self._tables[where[:, 0], where[:, 1]] = where[:, 2].int()

    def _inputs(self, parts: Sequence[Slice], bucket: int) -> StepInputs:
        inputs = StepInputs(
            torch.empty(len(INTS), bucket, dtype=torch.int64, device=self.device),
            torch.empty(len(FLOATS), bucket, device=self.device),
        )
        self._fill(inputs, parts)
        return inputs

    def _fill(self, inputs: StepInputs, parts: Sequence[Slice]) -> None:
        """Send the step's numbers to the device; padding samples greedily from a row that nobody owns."""
        padding = inputs.ints.shape[1] - len(parts)
        ints = [
            (p.request.tokens(p.stop - 1, p.stop)[0], p.stop - 1, self._rows[p.request][0], p.request.seed, _top_k(p))
            for p in parts
        ]
        ints += [(0, 0, self.max_seqs, 0, 0)] * padding
        floats = [(p.request.params.temperature, p.request.params.top_p, p.request.params.min_p) for p in parts]
        floats += [(0.0, 1.0, 0.0)] * padding
        inputs.ints.copy_(torch.tensor(ints).T.contiguous().pin_memory(), non_blocking=True)
        inputs.floats.copy_(torch.tensor(floats, dtype=torch.float32).T.contiguous().pin_memory(), non_blocking=True)

    def _sampling_rows(self, named: Mapping[str, torch.Tensor]) -> SamplingRows:
        return SamplingRows(
            temperature=named["temperature"],
            top_k=named["top_k"].int(),
            top_p=named["top_p"],
            min_p=named["min_p"],
            seeds=named["seeds"],
            positions=named["positions"] + 1,
        )


def _decodes(part: Slice) -> bool:
    """Whether the slice is one token whose successor is drawn, and no logits of the prompt are asked for."""
    return part.stop - part.start == 1 and part.samples and part.request.params.prompt_logprobs is None


def _top_k(part: Slice) -> int:
    return max(part.request.params.top_k, 0)


def _filtered(parts: Sequence[Slice]) -> bool:
    """Whether any request leaves tokens out; the draw itself is the same either way."""
    return any(
        not p.greedy and (p.top_k > 0 or p.top_p < 1 or p.min_p > 0) for p in (part.request.params for part in parts)
    )


def _special(request: Request) -> bool:
    """Whether a request needs more than the fused draw: log-probabilities, penalties, masked stops."""
    params = request.params
    return params.logprobs is not None or params.has_penalties or len(request.output) < params.min_tokens
