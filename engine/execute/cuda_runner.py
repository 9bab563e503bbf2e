"""Runs step plans on a CUDA device: a step is one captured graph, sampling included.

A step's inputs are a few numbers per token, sent in one copy; what a request keeps (block table, sampling parameters,
the token drawn last) lives in rows on the device. Long steps with prompts are launched kernel by kernel: they keep the
device busy for longer than that takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from engine.execute.batch_rows import BatchRows
from engine.execute.draw_numbers import columns
from engine.execute.launched import Launched, start_clock
from engine.execute.logits_processing import LogitsProcessor, Masks, Words, is_processed
from engine.execute.logprobs import RowLogprobs
from engine.execute.model_runner import score_prompt
from engine.execute.prompt_embeds import given_rows, is_given
from engine.execute.shared_blocks import SharedBlocks
from engine.execute.step_graphs import Computed, StepGraphs
from engine.execute.step_layout import StepLayout, StepShape, lay_out, named, row_bucket
from engine.execute.transfer import Parcel, pinned, to_device
from engine.execute.verify import Rows
from engine.model.decoder import Decoder, DecoderBatch, GivenRows
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request
from kernels.attention import CudaAttentionBatch
from kernels.cuda.decode_plan import allocate_plan, plan_decode
from kernels.cuda.geometry import Geometry
from kernels.cuda.numerics import PIECE
from kernels.cuda.prefill import RECORD, allocate_split
from kernels.identity import kernel_id
from kernels.kv_cache import LayerCache, allocate, copy_blocks
from kernels.sample import SamplingRows
from kernels.sample import sample as draw
from kernels.step_inputs import row_inputs, token_inputs

LARGEST_CAPTURED = 1024  # tokens of a step with prompts
SMALLEST_FORKED = 64  # tokens from which on prompts and decoding sequences attend side by side; cuBLAS follows, which
# waits for both, and not one of our products, which would start early


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
        concurrent: bool,
    ) -> None:
        spec = model.spec
        self.model = model
        self.block_size = block_size
        self.device = device
        self.caches: list[LayerCache] = [
            allocate(blocks, block_size, spec.kv_heads, spec.head_dim, model.dtype, device) for _ in range(spec.layers)
        ]
        self._rows = BatchRows(max_seqs, -(-max_len // block_size), device)
        self._processor = LogitsProcessor(spec.vocab_size, device)
        pieces = max_seqs * -(-max_len // PIECE)
        self._most = most = row_bucket(max_seqs)  # sequences that decode, padding included
        self._plan = allocate_plan(most, pieces, spec.heads, spec.head_dim, spec.sliding_window, device)
        self._geometry = Geometry(spec.heads, spec.kv_heads, spec.head_dim, model.dtype)
        self._split = allocate_split(self._geometry, device)
        self._unshared = torch.zeros(most, dtype=torch.int32, device=device)
        self._shared = SharedBlocks(most, max_len, block_size, self._geometry, device) if cascade else None
        self._side = torch.cuda.Stream(device) if concurrent else None
        self._graphs = None if enforce_eager else StepGraphs(self._step, device)

    @torch.inference_mode()
    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Launched:
        """Start one step; its tokens are on their way to the host when this returns. ``masks``: of grammars."""
        if plan.copies:
            copy_blocks(self.caches, plan.copies)
        self._rows.follow(plan.slices)
        decoding, others = self._decoding(plan)
        graphs = self._graphs if self._captured(decoding, others) else None
        layout = self._lay_out(plan, decoding, others, padded=graphs is not None)
        rows = Rows.of(plan, layout.sampling)
        numbers = torch.from_numpy(layout.numbers)
        began = start_clock(self.device)
        self._follow([*layout.sampling, *plan.forked])
        scored: dict[Request, Sequence[RowLogprobs]] = {}
        if graphs is not None:
            computed = graphs.run(layout.shape, pinned(numbers))
        else:
            given = given_rows([*decoding, *others], self.device, self.model.dtype)
            computed = self._step(layout.shape, to_device(layout.numbers, self.device), given)
            scored = self._score_prompts(computed.hidden, len(decoding), others)
        sources = rows.with_leaders(plan) if plan.forks else None
        if sources is not None:
            tokens = computed.tokens[to_device(np.array(sources, np.int64), self.device)]
            computed, rows = replace(computed, tokens=tokens), Rows.of(plan, [*layout.sampling, *plan.forked])
        self._draw_anew(computed, rows, {} if masks is None else masks(), sources)
        for part in rows.sampling:
            self._rows[part.request].fed = part.stop
        for part, count in zip(rows.sampling, rows.counts, strict=False):
            if count > 1:  # which of its tokens is the last one is not known yet
                self._rows[part.request].fed = -1
        return Launched(rows, computed.tokens, self._logprobs(computed, rows.parts, sources), scored, began)

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Always: what a draw depends on beside the model is on the device."""
        return True

    def numerics(self) -> Mapping[str, str]:
        """What the tokens depend on beside weights and requests."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "kernels": kernel_id(self.device),
        }

    def _decoding(self, plan: StepPlan) -> tuple[list[Slice], list[Slice]]:
        """The slices of one token that draw the next one, which attend as decoding sequences do, and the others.

        The device itself drew the token of nearly all that decode; it is told the others', as of those whose last step
        had drafts.
        """
        decoding: list[Slice] = []
        others: list[Slice] = []
        known: dict[Request, int] = {}
        for part in plan.computing:
            if part.stop - part.start > 1 or not part.samples:
                others.append(part)
                continue
            decoding.append(part)
            if self._rows[part.request].fed != part.start:
                (known[part.request],) = plan.token_ids(part)
        if known:
            self._rows.feed(known)
        return decoding, others

    def _lay_out(self, plan: StepPlan, decoding: Sequence[Slice], others: Sequence[Slice], padded: bool) -> StepLayout:
        layout = lay_out(plan, decoding, others, self._rows, self._geometry, padded)
        shared = self._shared is not None and self._shared.follow(decoding)
        return replace(layout, shape=replace(layout.shape, shared=shared))

    def _captured(self, decoding: Sequence[Slice], others: Sequence[Slice]) -> bool:
        """Whether a step with these slices is replayed: not where prompts are scored, or came as embeddings."""
        if any(_scored(part) for part in others) or _tokens(others) > LARGEST_CAPTURED:
            return False
        return not (self._rows.given and any(is_given(part) for part in (*decoding, *others)))

    def _step(self, shape: StepShape, numbers: torch.Tensor, given: GivenRows | None = None) -> Computed:
        """A step from its numbers to its tokens, all on the device; only launches, so that it can be captured."""
        inputs = named(numbers, shape)
        hidden = self.model.hidden_states(self._batch(shape, inputs, given), self.caches)
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

    def _batch(self, shape: StepShape, inputs: Mapping[str, torch.Tensor], given: GivenRows | None) -> DecoderBatch:
        """Tokens, their places in the cache, and attention's work."""
        state, positions, count = self._rows.state, inputs["positions"], min(shape.rows, self._most)
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
            tiles=inputs["tiles"].view(-1, RECORD) if shape.tiles else None,
            split=self._split if shape.split else None,
            side=self._side if count and shape.tokens >= SMALLEST_FORKED else None,
        )
        return DecoderBatch(tokens.tokens, positions, tokens.slots, attention, given)

    def _score_prompts(
        self, hidden: torch.Tensor, first: int, others: Sequence[Slice]
    ) -> dict[Request, Sequence[RowLogprobs]]:
        """Log-probabilities of prompt tokens, for those who ask: hidden [tokens, hidden], others from ``first`` on."""
        scored: dict[Request, Sequence[RowLogprobs]] = {}
        at = first
        for part in others:
            length = part.stop - part.start
            if _scored(part):
                scored[part.request] = score_prompt(self.model, hidden[at : at + length], part)
            at += length
        return scored

    def _follow(self, parts: Sequence[Slice]) -> None:
        """Tell the processor which tokens were drawn last, before the step draws the next ones."""
        special = [part for part in parts if is_processed(part)] if self._rows.processed else []
        if special:
            numbers = [self._rows[part.request].number for part in special]
            self._processor.follow(special, self._rows.state.last, numbers)

    def _draw_anew(
        self, computed: Computed, drawn: Rows, masks: Mapping[Request, Words], sources: Sequence[int] | None
    ) -> None:
        """Draw where logits have to be processed first, in place of the tokens drawn before, and where they are another
        row's; ``sources``: of each row the one whose logits it has, where that is not its own."""
        if not self._rows.processed and not masks and sources is None:
            return
        parts = drawn.parts
        sources = range(len(parts)) if sources is None else sources
        chosen = [i for i, part in enumerate(parts) if is_processed(part) or part.request in masks or sources[i] != i]
        if not chosen:
            return
        special = [parts[i] for i in chosen]
        parcel = Parcel()
        places = parcel.add(columns([chosen, [self._rows[part.request].number for part in special]], np.int64))
        tokens = self._processor.draw(
            computed.logits, [sources[i] for i in chosen], special, masks, drawn.drafts, parcel
        )
        at, mine = parcel[places][:, : len(chosen)]
        computed.tokens.scatter_(0, at, tokens)
        self._rows.state.last.scatter_(0, mine, tokens)

    def _logprobs(
        self, computed: Computed, parts: Sequence[Slice], sources: Sequence[int] | None
    ) -> RowLogprobs | None:
        """Log-probabilities for the rows that ask for them, on their way to the host."""
        if not self._rows.scored:
            return None
        counts = [(i, part.request.params.logprobs) for i, part in enumerate(parts)]
        asking = {i: count for i, count in counts if count is not None}
        return RowLogprobs(computed.logits, computed.tokens, asking, sources) if asking else None


def _tokens(parts: Sequence[Slice]) -> int:
    return sum(part.stop - part.start for part in parts)


def _scored(part: Slice) -> bool:
    """Whether the slice holds prompt tokens whose successors' log-probabilities are asked for."""
    return part.request.params.prompt_logprobs is not None and part.start < len(part.request.prompt) - 1
