"""Constants that results depend on to the bit. They belong to a run's numerics digest."""

from __future__ import annotations

KEY_TILE = 64  # keys per tensor-core step of attention
PIECE = 256  # keys per independently computed piece; a multiple of KEY_TILE
VOCAB_CHUNK = 4096  # logits that one program of the sampler reduces
SEARCH_CHUNK = 8192  # logits per step of a search over a whole row
GROUP = 32  # logits whose greatest one speaks for them when candidates are chosen
BASIS = 2048  # candidates' limit: this group from the top
ROOM = 256  # candidates of one VOCAB_CHUNK

NUMERICS: dict[str, object] = {
    "attention": {"kernel": "paged-online-softmax-v1", "key_tile": KEY_TILE, "piece": PIECE},
    "norm": "row-v1",
    "rope_cache": "row-v1",
    "activation": "elementwise-v1",
    "sample": {
        "kernel": "gumbel-threshold-v2",
        "vocab_chunk": VOCAB_CHUNK,
        "search_chunk": SEARCH_CHUNK,
        "group": GROUP,
        "basis": BASIS,
        "room": ROOM,
    },
    "gemm": "sequential-k",
}
