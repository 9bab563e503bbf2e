"""What a request gets that does not say: a model's sampling defaults and its end ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.args import EngineArgs
from engine.model.files import ModelFiles
from engine.model.weights import read_generation_config
from engine.params import ParameterError, SamplingParams
from engine.params.defaults import NAMES


def generation_defaults(args: EngineArgs, files: ModelFiles) -> dict[str, Any]:
    """The entries of ``generation_config.json`` that count: those of ``NAMES``, and ``eos_token_id``.

    ``generation_config=auto`` takes the model's, a folder its own, ``vllm`` the end ids alone;
    ``override_generation_config`` replaces entries last.

    Raises:
        ParameterError: the folder has no such file.
    """
    source = files
    if args.generation_config not in ("auto", "vllm"):
        folder = Path(args.generation_config).expanduser()
        if not (folder / "generation_config.json").is_file():
            raise ParameterError(
                "generation_config",
                args.generation_config,
                "auto, vllm (the engine's own defaults) or a folder with a generation_config.json",
            )
        source = replace(files, folder=folder, gguf=None)
    found = {**read_generation_config(source), **args.override_generation_config}
    names = ("eos_token_id", *(NAMES if args.generation_config != "vllm" else args.override_generation_config))
    return {name: found[name] for name in names if found.get(name) is not None}


def default_sampling_params(generation_config: Mapping[str, Any]) -> SamplingParams:
    """Sampling parameters with a model's defaults.

    Raises:
        ParameterError: one of them is not allowed.
    """
    return SamplingParams(
        **{field: generation_config[name] for name, field in NAMES.items() if name in generation_config}
    )
