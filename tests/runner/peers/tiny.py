"""A small random model as a folder, and configurations on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine.params import SamplingParams
from runner.config import Config, parse

VOCAB = 128


def make_model(folder: Path) -> Path:
    """Two layers in float32; the end of sequence is token 2."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def configuration(engine: dict[str, Any], folder: Path | str, **changes: Any) -> Config:
    """A recipe over a column of token ids; ``changes`` replace whole sections."""
    sampling = {"temperature": 0.0, "detokenize": False}
    sections: dict[str, Any] = {
        "name": "tiny",
        "model": {"name": str(folder), "dtype": "float32"},
        "engine": {"skip_tokenizer_init": True, **engine},
        "sampling": SamplingParams(**(sampling | changes.pop("sampling", {}))),
        "task": {"kind": "generate"},
        "prompt": {"token_ids": "ids"},
        "dataset": {"kind": "inline", "rows": [{"ids": [1, 2]}]},
        "tracking": {"kind": "none"},
    }
    return parse(sections | changes)
