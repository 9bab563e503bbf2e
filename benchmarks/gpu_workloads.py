"""Work for GPUs, the same for every engine: (prompt token ids, output length), greedy, without end of sequence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Request = tuple[list[int], int]

SHAPES: dict[str, dict[str, Any]] = {
    "llama8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False,
    },
    "llama1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
}  # fmt: skip


def write_model(name: str, folder: Path, **changes: Any) -> Path:
    """A model folder without weights, for ``load_format="dummy"``."""
    common = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "torch_dtype": "bfloat16", "eos_token_id": 2,
    }  # fmt: skip
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(common | SHAPES[name] | changes))
    return path


def single(draw: random.Random) -> list[Request]:
    """One stream: 128 tokens in, 256 out."""
    return [(_tokens(draw, 128), 256)]


def chatlike(draw: random.Random) -> list[Request]:
    """1,000 requests of lognormal lengths like those of public chat logs: mean about 204 in, 188 out."""
    return [
        (_tokens(draw, _length(draw, 4.8, 1.1, 2000)), _length(draw, 4.9, 0.9, 1000))
        for _ in range(1000)
    ]  # fmt: skip


def decode(draw: random.Random) -> list[Request]:
    """512 requests of 128 tokens in and 512 out."""
    return [(_tokens(draw, 128), 512) for _ in range(512)]


def sharedprefix(draw: random.Random) -> list[Request]:
    """1,000 requests that share 1,024 tokens, with 64 of their own and 64 out."""
    prefix = _tokens(draw, 1024)
    return [(prefix + _tokens(draw, 64), 64) for _ in range(1000)]


def longprompt(draw: random.Random) -> list[Request]:
    """64 requests of 3,900 tokens in and 128 out: prefill first of all."""
    return [(_tokens(draw, 3900), 128) for _ in range(64)]


def fewshot(draw: random.Random) -> list[Request]:
    """400 requests in random order behind 8 prefixes of 700 tokens, own parts and outputs of mixed lengths."""
    prefixes = [_tokens(draw, 700) for _ in range(8)]
    return [
        (draw.choice(prefixes) + _tokens(draw, _length(draw, 4.0, 0.6, 300)), _length(draw, 4.2, 1.0, 500))
        for _ in range(400)
    ]  # fmt: skip


def bursty(draw: random.Random) -> list[Request]:
    """720 requests in bursts of one kind each: short questions, long answers, summaries of long documents."""
    kinds = ((3.5, 0.4, 2.8, 0.5), (4.2, 0.5, 6.2, 0.4), (7.4, 0.3, 3.5, 0.6))  # lognormal: in, out
    requests: list[Request] = []
    while len(requests) < 720:
        mu_in, sigma_in, mu_out, sigma_out = draw.choice(kinds)
        for _ in range(draw.randint(8, 80)):
            prompt = _tokens(draw, _length(draw, mu_in, sigma_in, 3000))
            requests.append((prompt, _length(draw, mu_out, sigma_out, 1000)))
    return requests[:720]


def cut(requests: list[Request], most: int | None = None, tokens: int | None = None) -> list[Request]:
    """The first ``most`` requests with prompts and outputs of at most ``tokens`` tokens: for small machines."""
    return [(prompt[:tokens], length if tokens is None else min(length, tokens)) for prompt, length in requests[:most]]


def workload(kind: str, seed: int) -> list[Request]:
    """The requests of one kind.

    Raises:
        ValueError: no workload has this name.
    """
    if kind not in WORKLOADS:
        raise ValueError(f"workload {kind!r} is not known: known are {', '.join(WORKLOADS)}")
    return WORKLOADS[kind](random.Random(f"{kind}-{seed}"))


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(10, 32000) for _ in range(count)]


def _length(draw: random.Random, mu: float, sigma: float, most: int) -> int:
    return int(min(most, max(4, draw.lognormvariate(mu, sigma))))


WORKLOADS: dict[str, Callable[[random.Random], list[Request]]] = {
    "single": single, "chatlike": chatlike, "decode": decode, "sharedprefix": sharedprefix,
    "longprompt": longprompt, "fewshot": fewshot, "bursty": bursty,
}  # fmt: skip
