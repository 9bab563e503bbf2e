"""Fixed work, the same for every engine: (prompt token ids, output length), greedy, without end of sequence."""

from __future__ import annotations

import random

Request = tuple[list[int], int]
VOCAB = 40_000  # ids below this are ordinary text tokens of SmolLM2


def uniform(count: int = 64, inputs: int = 128, outputs: int = 128, seed: int = 0) -> list[Request]:
    """Every request alike: what static batching is best at."""
    draw = random.Random(f"uniform-{seed}")
    return [(_tokens(draw, inputs), outputs) for _ in range(count)]


def mixed(count: int = 64, seed: int = 0) -> list[Request]:
    """Lognormal lengths like those of chats: mean about 110 tokens in (8 to 500) and 110 out (8 to 400)."""
    draw = random.Random(f"mixed-{seed}")
    requests = []
    for _ in range(count):
        inputs = int(min(500, max(8, draw.lognormvariate(4.4, 0.8))))
        outputs = int(min(400, max(8, draw.lognormvariate(4.4, 0.8))))
        requests.append((_tokens(draw, inputs), outputs))
    return requests


def single(seed: int = 0) -> list[Request]:
    """One stream."""
    return uniform(1, seed=seed)


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(100, VOCAB) for _ in range(count)]


WORKLOADS = {"single": single, "uniform": uniform, "mixed": mixed}
