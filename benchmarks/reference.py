"""transformers as the judge: models over tensors that are given by name, their greedy tokens and their logits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from engine.model.checkpoint import Checkpoint
from engine.model.files import resolve_model
from engine.model.weights import iter_weights, read_config

Take = Callable[[str, tuple[int, ...]], torch.Tensor]


def random_tensors(device: torch.device) -> Take:
    """The tensors that ``load_format="dummy"`` draws for the engine in bf16."""
    checkpoint = Checkpoint(None, torch.bfloat16, device)
    return lambda name, shape: checkpoint.take(name, *shape)


def file_tensors(model: str) -> tuple[dict[str, Any], Take]:
    """Config and tensors of a model's files, by the engine's own reader."""
    files = resolve_model(model)
    tensors = dict(iter_weights(files))
    return read_config(files, {}), lambda name, _: tensors[name]


@contextmanager
def reference_model(config: Mapping[str, Any], take: Take, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
    """A Llama in transformers over such tensors; its memory is given back at the end.

    In float32 nothing of it is rounded further: no TF32, and attention is plain matrix products.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_float32_matmul_precision("highest")
    settings = LlamaConfig(**config, attn_implementation="eager" if dtype is torch.float32 else "sdpa")
    with torch.device("meta"):
        model = LlamaForCausalLM(settings)
    state = {name: take(name, tuple(p.shape)).to(device, dtype) for name, p in model.named_parameters()}
    model.load_state_dict(state, strict=False, assign=True)
    if settings.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb = type(model.model.rotary_emb)(settings).to(device)
    model.generation_config.eos_token_id = None
    try:
        with torch.inference_mode():
            yield model.eval()
    finally:
        del model, state
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def greedy(model: Any, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    """``count`` likeliest tokens after each prompt, all prompts in one batch with padding on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return [row[width:].tolist() for row in out]


def logits(model: Any, ids: list[int], first: int) -> torch.Tensor:
    """[len(ids) - first, vocab] float32: what follows each token from number ``first`` on."""
    rows: torch.Tensor = model(torch.tensor([ids], device=model.device)).logits[0, first:]
    return rows.float()
