"""Rotary embedding settings of a GGUF file in the form of a Hugging Face config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_config(
    metadata: Mapping[str, Any], factors: np.ndarray[Any, Any] | None, head_dim: int, path: Path
) -> dict[str, Any]:
    """``rope_theta``, and ``rope_scaling`` and ``partial_rotary_factor`` where the file has them.

    Args:
        metadata: the file's ``<arch>.rope.*`` entries without that prefix.
        factors: the divisors of the frequencies that Llama 3.1 and later store as a tensor, [rotary_dim / 2].
        head_dim: values per attention head.
        path: the file, for messages.

    Raises:
        ValueError: a kind of scaling that has no Hugging Face counterpart here.
    """
    theta = float(metadata.get("freq_base", 10000.0))
    config: dict[str, Any] = {"rope_theta": theta}
    rotary = int(metadata.get("dimension_count", head_dim))
    if rotary != head_dim:
        config["partial_rotary_factor"] = rotary / head_dim
    if factors is not None:
        config["rope_scaling"] = _llama3_scaling(factors, theta, rotary, path)
        return config
    kind = metadata.get("scaling.type", "none")
    if kind == "none":
        return config
    if kind not in ("linear", "yarn"):
        raise ValueError(f"{path}: rope scaling {kind!r} is not supported; supported: none, linear, yarn")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": float(metadata.get("scaling.factor", 1.0))}
    renames = {
        "scaling.original_context_length": "original_max_position_embeddings",
        "scaling.yarn_beta_fast": "beta_fast",
        "scaling.yarn_beta_slow": "beta_slow",
    }
    scaling |= {hf: metadata[key] for key, hf in renames.items() if kind == "yarn" and key in metadata}
    config["rope_scaling"] = scaling
    return config


def _llama3_scaling(factors: np.ndarray[Any, Any], theta: float, rotary: int, path: Path) -> dict[str, Any]:
    """The Llama 3 parameters behind stored factors: the largest is ``factor``, the rest are Llama 3's constants.

    They are used only if they give back the stored factors.
    """
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if not np.allclose(llama3_factors(scaling, theta, rotary), factors, rtol=1e-4):
        raise ValueError(f"{path}: the factors in rope_freqs.weight are not those of Llama 3's rope scaling")
    return scaling


def llama3_factors(scaling: Mapping[str, Any], theta: float, rotary: int) -> np.ndarray[Any, Any]:
    """What each rotary frequency is divided by, [rotary_dim / 2] (transformers: ``rope_type="llama3"``)."""
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi * theta ** (np.arange(0, rotary, 2) / rotary)
    smooth = (context / wavelength - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < context / high, 1.0, np.where(wavelength > context / low, factor, blended))
