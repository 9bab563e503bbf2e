"""What ``EngineArgs.speculative_config`` may say."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from engine.params.checks import ParameterError, check, is_int

Method = Literal["ngram", "draft_model"]
METHODS = ("ngram", "draft_model")
MOST = 32  # drafts of a request in one step


@dataclass(frozen=True, kw_only=True)
class SpeculativeConfig:
    """How drafts are made. Names follow vLLM.

    Args:
        method: ``ngram`` takes what followed the last tokens where they stood before (prompt lookup, Saxena 2023);
            ``draft_model`` asks a smaller model. ``None`` is ``draft_model`` where ``model`` is given, else ``ngram``.
        num_speculative_tokens: most drafts of a request in one step.
        prompt_lookup_min: fewest last tokens that must have stood before; 2 unless given.
        prompt_lookup_max: most tokens that are compared; 4 unless given, or ``prompt_lookup_min`` where that is more.
        model: of the method ``draft_model``: a decoder with the same vocabulary, named as in ``EngineArgs.model``.
        revision: the hub revision of that model.

    Raises:
        ParameterError: a value is outside its range, or belongs to the other method.
    """

    method: Method | None = None
    num_speculative_tokens: int = 5
    prompt_lookup_min: int | None = None
    prompt_lookup_max: int | None = None
    model: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        method = self.method or ("draft_model" if self.model is not None else "ngram")
        _check(method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        object.__setattr__(self, "method", method)
        count = self.num_speculative_tokens
        _check(is_int(count) and 1 <= count <= MOST, "num_speculative_tokens", count, f"an integer from 1 to {MOST}")
        if method == "ngram":
            self._check_ngram()
        else:
            self._check_model()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SpeculativeConfig:
        """From a mapping, as it is given to ``LLM`` or in a recipe.

        Raises:
            ParameterError: a key is unknown (the nearest known one is named), or a value is not allowed.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"{near[0]!r}, the nearest of" if near else "one of"
            _check(key in known, "key", key, f"{hint} {', '.join(known)}")
        return cls(**values)

    def _check_ngram(self) -> None:
        for name in ("model", "revision"):
            _check(getattr(self, name) is None, name, getattr(self, name), "left out with method='ngram'")
        least = 2 if self.prompt_lookup_min is None else self.prompt_lookup_min
        most = max(4, least) if self.prompt_lookup_max is None and is_int(least) else self.prompt_lookup_max
        _check(is_int(least) and least >= 1, "prompt_lookup_min", least, "an integer of at least 1")
        _check(
            most is not None and is_int(most) and most >= least,
            "prompt_lookup_max",
            most,
            f"an integer from prompt_lookup_min={least}",
        )
        object.__setattr__(self, "prompt_lookup_min", least)
        object.__setattr__(self, "prompt_lookup_max", most)

    def _check_model(self) -> None:
        for name in ("prompt_lookup_min", "prompt_lookup_max"):
            _check(getattr(self, name) is None, name, getattr(self, name), "left out with method='draft_model'")
        _check(isinstance(self.model, str) and bool(self.model), "model", self.model, "the name of a model")


def read_speculative_config(values: object) -> SpeculativeConfig | None:
    """The checked configuration; ``None`` where there is to be no speculation.

    Raises:
        ParameterError: it is not a mapping, or something in it is not allowed.
    """
    if values is None or isinstance(values, SpeculativeConfig):
        return values
    if not isinstance(values, Mapping):
        raise ParameterError("speculative_config", values, "a mapping, or None for no speculation")
    return SpeculativeConfig.of(values)


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    check(ok, f"speculative_config.{name}", value, allowed)
