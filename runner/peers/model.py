"""The model as another engine reads it: a folder with config.json and safetensors, and our own tokenizer over it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.build import end_ids
from engine.device import choose_device, choose_dtype
from engine.model.cache import cache_folder, publish_folder
from engine.model.files import ModelFiles, resolve_model
from engine.model.weights import iter_weights, read_config, read_generation_config, weight_digest
from engine.sizes import model_length
from engine.text.tokenizer import Tokenizer, load_tokenizer
from runner.config import Config
from runner.config.peers import PeerEngine


@dataclass(frozen=True)
class PeerModel:
    """What peers need of a model. ``tokenizer`` makes prompts and texts, as for the native engine; ``ends`` are the ids
    that end an output there. ``dummy``: ``folder`` has no weights, and the peer draws its own."""

    folder: Path
    tokenizer: Tokenizer | None
    ends: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    max_model_len: int
    dummy: bool


def open_peer_model(config: Config, engine: PeerEngine, run_dir: Path) -> PeerModel:
    """Find or make the folder, and load the tokenizer.

    Raises:
        ValueError: the model, its tokenizer or ``max_model_len`` does not allow it; the message says what to change.
    """
    section = config.model
    name = section.name if section.config is None else str(_write_config(section.config, run_dir))
    files = resolve_model(name, section.revision, section.load_format)
    content = read_config(files, {})
    device = choose_device(getattr(engine, "device", "auto"))
    dtype = choose_dtype(section.dtype, content, device)
    template = getattr(config.task, "chat_template", None) or section.chat_template
    tokenizer = None if engine.skip_tokenizer_init else load_tokenizer(files, section.tokenizer, template)
    limit = int(content["max_position_embeddings"])
    return PeerModel(
        folder=_folder(files, dtype, content, tokenizer),
        tokenizer=tokenizer,
        ends=end_ids(content, read_generation_config(files), tokenizer),
        dtype=dtype,
        device=device,
        max_model_len=model_length(engine.max_model_len or section.max_model_len, limit, limit),
        dummy=section.load_format == "dummy",
    )


def _write_config(content: dict[str, Any], run_dir: Path) -> Path:
    folder = run_dir / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def _folder(files: ModelFiles, dtype: torch.dtype, content: dict[str, Any], tokenizer: Tokenizer | None) -> Path:
    """The model's own folder, or of a GGUF file a conversion that is kept in the cache folder: the dequantized weights
    that the native engine computes with."""
    if files.folder is not None:
        return files.folder
    name = str(dtype).removeprefix("torch.")
    target = cache_folder() / "peers" / f"{weight_digest(files)[:32]}-{name}"

    def fill(folder: Path) -> None:
        from safetensors.torch import save_file

        (folder / "config.json").write_text(json.dumps(content | {"torch_dtype": name}), encoding="utf-8")
        tensors = {key: tensor.to(dtype).contiguous() for key, tensor in iter_weights(files)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        if tokenizer is not None:
            tokenizer.hf.save_pretrained(folder)

    if not target.is_dir():
        publish_folder(target, fill)
    return target
