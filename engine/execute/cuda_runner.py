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
from engine.schedule.request import Request, Status
from kernels.attention import CudaAttentionBatch
from kernels.cuda.decode_plan import allocate_plan, plan_decode
from kernels.cuda.numerics import PIECE
from kernels.cuda.prefill import prefill_tiles
from kernels.identity import kernel_id
from kernels.kv_cache import LayerCache, allocate
from kernels.sample import SamplingRows
from kernels.sample import sample as draw

INTS = ("positions", "rows", "seeds", "top_k")
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


@dataclass
class _Row:
    """A running request's row: blocks of it that the device knows, and the position of the token drawn there last."""

    number: int
    epoch: int
    sent: int = 0
    fed: int = -1


class Launched:
    """A step on the device; its tokens are copied to the host as soon as they are there."""

    def __init__(
        self,
        parts: Sequence[Slice],
        tokens: torch.Tensor,
        again: Mapping[Request, Sample],
        scored: Mapping[Request, Sequence[RawLogprobs]],
    ) -> None:
        """Take the step's parts, the tokens drawn for them, and what was sampled apart from them."""
        self._requests = [part.request for part in parts]
        self._again = again
        self._scored = scored
        self._tokens = torch.empty(len(parts), dtype=torch.int64, pin_memory=True)
        self._tokens.copy_(tokens[: len(parts)], non_blocking=True)
        self._ready = torch.cuda.Event()
        self._ready.record()

    def result(self) -> StepResult:
        """Wait for the step and give its result."""
        self._ready.synchronize()
        drawn = {r: Sample(token) for r, token in zip(self._requests, self._tokens.tolist(), strict=True)}
        return StepResult(drawn | dict(self._again), self._scored)


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
        self._last = torch.zeros(max_seqs + 1, dtype=torch.int64, device=device)  # the token drawn last for each row
        self._rows: dict[Request, _Row] = {}
        self._free_rows = list(range(max_seqs - 1, -1, -1))
        pieces = max_seqs * -(-max_len // PIECE)
        self._plan = allocate_plan(max_seqs, pieces, spec.heads, spec.head_dim, spec.sliding_window, device)
        self._unshared = torch.zeros(max_seqs, dtype=torch.int32, device=device)
        self._graphs: dict[tuple[int, bool], DecodeGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Start one step; its tokens are on their way to the host when this returns."""
        self._assign_rows(plan)
        decoding = [part for part in plan.slices if self._decodes(part)]
        others = [part for part in plan.slices if not self._decodes(part)]
        if others or self.enforce_eager:
            logits, tokens, parts, scored = self._run(decoding, others)
        else:
            (logits, tokens), parts, scored = self._replay(decoding), decoding, {}
        special = [i for i, part in enumerate(parts) if _special(part.request)]
        again: dict[Request, Sample] = {}
        if special:
            requests = [parts[i].request for i in special]
            again = dict(zip(requests, sample(logits[special].float(), requests), strict=True))
            rows = torch.tensor([self._rows[request].number for request in requests], device=self.device)
            self._last[rows] = torch.tensor([again[request].token for request in requests], device=self.device)
        for part in parts:
            self._rows[part.request].fed = part.stop
        return Launched(parts, tokens, again, scored)

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Not where a request's next draw depends on tokens that the host must know."""
        return not any(_special(part.request) for part in plan.slices)

    def _run(
        self, decoding: Sequence[Slice], others: Sequence[Slice]
    ) -> tuple[torch.Tensor, torch.Tensor, list[Slice], dict[Request, Sequence[RawLogprobs]]]:
        """A step launch by launch: logits and tokens of the slices that sample, those slices, scored prompts."""
        hidden = self.model.hidden_states(self._mixed_batch(decoding, others), self.caches)
        at, ends, parts = 0, [], []
        scored: dict[Request, Sequence[RawLogprobs]] = {}
        for part in (*decoding, *others):
            length = part.stop - part.start
            if part.request.params.prompt_logprobs is not None and part.start < len(part.request.prompt) - 1:
                scored[part.request] = score_prompt(self.model, hidden[at : at + length], part)
            at += length
            if part.samples:
                ends.append(at - 1)
                parts.append(part)
        if not parts:
            nothing = torch.empty(0, dtype=torch.int64, device=self.device)
            return nothing, nothing, parts, scored
        inputs = self._inputs(parts, len(parts))
        logits = self.model.head(hidden[torch.tensor(ends, dtype=torch.int64, device=self.device)])
        return logits, self._draw(logits, inputs.named(), _filtered(parts)), parts, scored

    def numerics(self) -> Mapping[str, str]:
        """What the tokens depend on beside weights and requests."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "kernels": kernel_id(self.device),
        }

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
        batch = self._decode_batch(named["positions"], named["rows"])
        logits = self.model.head(self.model.hidden_states(batch, self.caches))
        return logits, self._draw(logits, named, filtered)

    def _draw(self, logits: torch.Tensor, named: Mapping[str, torch.Tensor], filtered: bool) -> torch.Tensor:
        """Draw a token per row, and keep it where the next step will read it."""
        rows = SamplingRows(
            temperature=named["temperature"],
            top_k=named["top_k"].int(),
            top_p=named["top_p"],
            min_p=named["min_p"],
            seeds=named["seeds"],
            positions=named["positions"] + 1,
        )
        tokens = draw(logits, rows, filtered, ranked=False).tokens
        self._last[named["rows"]] = tokens
        return tokens

    def _decode_batch(self, positions: torch.Tensor, rows: torch.Tensor) -> DecoderBatch:
        """One token per sequence, the one drawn last; padding has no context and no slot."""
        used = rows < self.max_seqs
        tables = self._tables[rows]  # [bucket, width]
        blocks = tables.gather(1, (positions // self.block_size)[:, None])[:, 0]
        slots = torch.where(used, blocks * self.block_size + positions % self.block_size, -1)
        contexts = torch.where(used, positions + 1, 0).int()
        plan_decode(self._plan, contexts, self._unshared[: len(rows)])
        return DecoderBatch(self._last[rows], positions, slots, CudaAttentionBatch(len(rows), tables, self._plan))

    def _mixed_batch(self, decoding: Sequence[Slice], others: Sequence[Slice]) -> DecoderBatch:
        """Decoding sequences first, each with the token drawn last, then the slices of prompts."""
        tokens: list[int] = []
        positions = [part.start for part in decoding]
        starts = [0]
        for part in others:
            tokens += part.request.tokens(part.start, part.stop)
            positions += range(part.start, part.stop)
            starts.append(len(tokens))
        ordered = [*decoding, *others]
        lengths = torch.tensor([part.stop - part.start for part in ordered], device=self.device)
        rows = torch.tensor([self._rows[part.request].number for part in ordered], device=self.device)
        at = torch.tensor(positions, device=self.device)
        owner = torch.repeat_interleave(rows, lengths, output_size=len(positions))
        slots = self._tables[owner, at // self.block_size] * self.block_size + at % self.block_size
        count, spec = len(decoding), self.model.spec
        if count:
            contexts = torch.tensor([part.stop for part in decoding], dtype=torch.int32, device=self.device)
            plan_decode(self._plan, contexts, self._unshared[:count])
        tiles = prefill_tiles(starts, [p.stop for p in others], spec.heads, spec.kv_heads, spec.head_dim)
        attention = CudaAttentionBatch(
            count, self._tables[rows[:count]], self._plan, self._tables[rows[count:]], tiles.to(self.device)
        )
        given = torch.tensor(tokens, dtype=torch.int64, device=self.device)
        return DecoderBatch(torch.cat((self._last[rows[:count]], given)), at, slots, attention)

    def _decodes(self, part: Slice) -> bool:
        """Whether the slice is one token that the device itself drew last for this request."""
        row = self._rows[part.request]
        scored = part.request.params.prompt_logprobs is not None
        return part.stop - part.start == 1 and part.samples and row.fed == part.start and not scored

    def _assign_rows(self, plan: StepPlan) -> None:
        """Give each request of the plan a row of the block tables, and send the blocks that its row lacks."""
        for request, row in list(self._rows.items()):
            if request.status is not Status.RUNNING or request.preemptions != row.epoch:
                self._free_rows.append(self._rows.pop(request).number)
        cells: list[tuple[int, int, int]] = []
        for part in plan.slices:
            request = part.request
            row = self._rows.get(request) or _Row(self._free_rows.pop(), part.epoch)
            self._rows[request] = row
            cells += [(row.number, n, request.blocks[n]) for n in range(row.sent, len(request.blocks))]
            row.sent = len(request.blocks)
        if cells:
            where = torch.tensor(cells).pin_memory().to(self.device, non_blocking=True)
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
            (part.stop - 1, self._rows[part.request].number, part.request.seed, max(part.request.params.top_k, 0))
            for part in parts
        ]
        ints += [(0, self.max_seqs, 0, 0)] * padding
        floats = [(p.request.params.temperature, p.request.params.top_p, p.request.params.min_p) for p in parts]
        floats += [(0.0, 1.0, 0.0)] * padding
        inputs.ints.copy_(torch.tensor(ints).T.contiguous().pin_memory(), non_blocking=True)
        inputs.floats.copy_(torch.tensor(floats).T.contiguous().pin_memory(), non_blocking=True)


def _filtered(parts: Sequence[Slice]) -> bool:
    """Whether any request leaves tokens out; the draw itself is the same either way."""
    return any(
        not p.greedy and (p.top_k > 0 or p.top_p < 1 or p.min_p > 0) for p in (part.request.params for part in parts)
    )


def _special(request: Request) -> bool:
    """Whether a request needs more than the fused draw: log-probabilities, penalties, masked stops."""
    params = request.params
    return params.logprobs is not None or params.has_penalties or len(request.output) < params.min_tokens
