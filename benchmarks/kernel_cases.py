"""Inputs of the kernel benchmark: model shapes and a filled paged cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.cuda.decode import decode_attention
from kernels.cuda.decode_plan import DecodePlan, allocate_plan, plan_decode
from kernels.cuda.geometry import Geometry
from kernels.cuda.numerics import PIECE
from kernels.cuda.prefill import SplitScratch, prefill_attention, prefill_tiles
from kernels.cuda.shared_prefix import SharedPrefixes, shared_prefix_attention
from kernels.kv_cache import LayerCache


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that its kernels see."""

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def geometry(self) -> Geometry:
        """What attention cuts its work by."""
        return Geometry(self.heads, self.kv_heads, self.head_dim, torch.bfloat16)

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of the matrices of a layer and of the head."""
        attention = self.heads * self.head_dim
        return {
            "qkv": (attention + 2 * self.kv_heads * self.head_dim, self.hidden),
            "o": (self.hidden, attention),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
            "lm_head": (self.vocab, self.hidden),
        }


SHAPES = (
    Shape("llama8b", 4096, 14336, 32, 8, 128, 128256),
    Shape("llama1b", 2048, 8192, 32, 8, 64, 128256),
    Shape("smollm2", 576, 1536, 9, 3, 64, 49152),
)


class Attention:
    """A layer's cache full of random keys and values, sequences in it in shuffled blocks, and their queries."""

    def __init__(self, shape: Shape, lengths: list[int], block_size: int = 16, common: int = 0) -> None:
        """``common`` leading tokens have the same blocks in all sequences."""
        self.shape, self.lengths, self.common = shape, lengths, common
        per = [-(-n // block_size) for n in lengths]
        shared = common // block_size
        order = torch.randperm(sum(per) + 1, device="cuda", dtype=torch.int32)
        self.tables = torch.zeros(len(lengths), max(per), device="cuda", dtype=torch.int32)
        used = 0
        for i, n in enumerate(per):
            self.tables[i, :n] = order[used : used + n]
            self.tables[i, :shared] = order[:shared]
            used += n
        size = (sum(per) + 1, block_size, shape.kv_heads, shape.head_dim)
        keys, values = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        self.cache = LayerCache(keys, values, block_size)
        self.contexts = torch.tensor(lengths, device="cuda", dtype=torch.int32)
        self.none = torch.zeros_like(self.contexts)

    def queries(self, tokens: int) -> torch.Tensor:
        return torch.randn(tokens, self.shape.heads, self.shape.head_dim, device="cuda", dtype=torch.bfloat16)

    def plan(self, shared: torch.Tensor | None = None) -> DecodePlan:
        """Allocated and filled."""
        pieces = sum(-(-n // PIECE) for n in self.lengths)
        s = self.shape
        plan = allocate_plan(len(self.lengths), pieces, s.heads, s.head_dim, 0, self.tables.device)
        plan_decode(plan, self.contexts, self.none if shared is None else shared)
        return plan

    def decode(
        self, query: torch.Tensor, plan: DecodePlan, out: torch.Tensor, prefixes: SharedPrefixes | None = None
    ) -> None:
        if prefixes:
            self.shared(query, plan, prefixes)
        decode_attention(query, self.cache, self.tables, plan, self.shape.head_dim**-0.5, 0.0, out)

    def shared(self, query: torch.Tensor, plan: DecodePlan, prefixes: SharedPrefixes) -> None:
        """The pieces that sequences share."""
        scale = self.shape.head_dim**-0.5
        shared_prefix_attention(query, self.cache, self.tables, self.contexts, prefixes, plan, scale, 0.0)

    def tiles(self, tokens: int, slots: int = 0) -> torch.Tensor:
        """Tiles of a step that computes the last ``tokens`` tokens of every sequence."""
        starts = [i * tokens for i in range(len(self.lengths) + 1)]
        return prefill_tiles(starts, self.lengths, self.shape.geometry, slots).cuda()

    def prefill(
        self, query: torch.Tensor, tiles: torch.Tensor, out: torch.Tensor, split: SplitScratch | None = None
    ) -> None:
        prefill_attention(query, self.cache, self.tables, tiles, self.shape.head_dim**-0.5, 0, 0.0, out, split)

    @property
    def decode_bytes(self) -> int:
        """Keys and values that one decode step must read; shared blocks once."""
        tokens = sum(self.lengths) - self.common * (len(self.lengths) - 1)
        return tokens * 2 * self.shape.kv_heads * self.shape.head_dim * 2

    def prefill_flops(self, tokens: int) -> int:
        """Of the last ``tokens`` tokens of every sequence, hidden keys not counted."""
        pairs = sum(tokens * n - tokens * (tokens - 1) // 2 for n in self.lengths)
        return 4 * pairs * self.shape.heads * self.shape.head_dim
