"""The draft model that a configuration names, checked against the target before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass

from engine.args import EngineArgs
from engine.model.files import ModelFiles, resolve_model
from engine.model.spec import DecoderSpec, EncoderSpec, read_spec
from engine.model.weights import read_config
from engine.params import ParameterError
from engine.speculate.config import SpeculativeConfig


@dataclass(frozen=True)
class DraftModel:
    """A draft model's files and architecture."""

    files: ModelFiles
    spec: DecoderSpec


def find_draft_model(args: EngineArgs, config: SpeculativeConfig, target: DecoderSpec, length: int) -> DraftModel:
    """The draft model, for sequences of up to ``length`` tokens. Its weights are dummies where the target's are.

    Raises:
        ParameterError: it cannot draft for the target: no decoder, another vocabulary, too few positions.
    """
    assert config.model is not None
    files = resolve_model(config.model, config.revision, "dummy" if args.load_format == "dummy" else "auto")
    spec = read_spec(read_config(files, {}))
    name, value = "speculative_config.model", config.model
    if isinstance(spec, EncoderSpec):
        raise ParameterError(name, value, "a decoder: this model is an encoder")
    if spec.vocab_size != target.vocab_size:
        raise ParameterError(
            name, value, f"of the target's vocabulary, {target.vocab_size} tokens: this model has {spec.vocab_size}"
        )
    if spec.max_position < length:
        raise ParameterError(
            name, value, f"made for max_model_len={length} tokens: this model has {spec.max_position} positions"
        )
    return DraftModel(files, spec)
