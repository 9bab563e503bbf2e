"""A model's configuration and weights, read from its files or drawn at a trained model's scale."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.model.cache import file_digest
from engine.model.files import ModelFiles
from engine.model.overrides import Overrides, overridden

_NORM_NOISE = 0.05  # spread of drawn norm weights around 1
_BIAS_STD = 0.02
_LOGIT_STD = 2.0  # of a head tied to the embeddings, for inputs of unit scale; SmolLM2's own table gives 3.3


class ConfigError(ValueError):
    """A model's configuration file cannot be used; the message names the file and what is wrong."""


def read_config(files: ModelFiles, overrides: Overrides) -> dict[str, Any]:
    """The model's configuration with ``config.json``'s keys, from that file or from GGUF metadata.

    A nested ``text_config`` is lifted to the top, ``rope_parameters`` (transformers 5) becomes ``rope_theta`` and
    ``rope_scaling``; ``overrides`` come last, in whichever of these forms, so that they always win.

    Raises:
        ConfigError: the file is missing or not a JSON object.
        ParameterError: ``overrides`` is a function that gives no config.
    """
    if files.gguf is not None:
        from engine.model.gguf_file import GGUFFile

        config = GGUFFile(files.gguf).config()
    else:
        config = _with_plain_rope(_flattened(_read_json(_folder(files) / "config.json")))
    return _with_plain_rope(_flattened(overridden(config, overrides)))


def read_generation_config(files: ModelFiles) -> dict[str, Any]:
    """``generation_config.json`` (an empty dict where there is none), or the end ids of a GGUF file."""
    if files.gguf is not None:
        from engine.model.gguf_file import GGUFFile

        return GGUFFile(files.gguf).generation_config()
    path = _folder(files) / "generation_config.json"
    return _read_json(path) if path.is_file() else {}


def iter_weights(files: ModelFiles) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight as ``(name, tensor)``: Hugging Face names, on the CPU, in the checkpoint's dtype.

    Safetensors stay memory-mapped (a tensor's pages are read when it is); GGUF tensors are dequantized one at a time.
    Nothing here holds on to a tensor, so a caller that converts as it goes needs room for one at a time.

    Raises:
        ConfigError: a weight file is damaged.
    """
    if files.gguf is not None:
        from engine.model.gguf_file import GGUFFile

        yield from GGUFFile(files.gguf).tensors()
        return
    for path in files.weight_files:
        yield from _safetensors(path)


def weight_digest(files: ModelFiles) -> str:
    """sha256 in hex over names and full contents of the weight files; ``"none"`` where there are none."""
    if not files.weight_files:
        return "none"
    lines = [f"{path.name} {file_digest(path)}\n" for path in files.weight_files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def dummy_weights(
    shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Random weights of the given shapes at a trained model's scale, so that activations neither vanish nor overflow.

    Each tensor has a generator of its own, seeded by (seed, name): its values depend on neither order nor company.
    Values are drawn in float32 on ``device`` and then cast; CPU and CUDA draw different ones.
    """
    for name, shape in shapes.items():
        digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        mean, std = _scale(name, shape)
        yield name, values.mul_(std).add_(mean).to(dtype)


def _scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a drawn weight."""
    lowered = name.lower()
    if lowered.endswith("bias"):
        return 0.0, _BIAS_STD
    if len(shape) == 1:
        return (1.0, _NORM_NOISE) if "norm" in lowered or "ln_" in lowered else (0.0, _BIAS_STD)
    if "embed" in lowered:
        return 0.0, _LOGIT_STD / math.sqrt(shape[-1])
    return 0.0, 1.0 / math.sqrt(shape[-1])  # [..., out, in]: unit inputs give unit outputs


def _safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a readable safetensors file: {error}") from None
    with file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            yield name, file.get_tensor(name)


def _folder(files: ModelFiles) -> Path:
    if files.folder is None:
        raise ConfigError(f"model {files.name!r} has neither a folder nor a GGUF file")
    return files.folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _flattened(config: dict[str, Any]) -> dict[str, Any]:
    """Multimodal checkpoints keep the language model's settings one level down."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    outer = {key: value for key, value in config.items() if key != "text_config"}
    inner = {key: value for key, value in text.items() if value is not None or key not in outer}
    return outer | inner | {key: outer[key] for key in ("architectures",) if key in outer}


def _with_plain_rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        return config  # absent, or one set of parameters per layer type: left as it is
    lifted = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    scaling = {key: value for key, value in rope.items() if key not in lifted}
    plain = scaling.get("rope_type", "default") == "default"
    rest = {key: value for key, value in config.items() if key != "rope_parameters"}
    return rest | lifted | ({} if plain else {"rope_scaling": scaling})
