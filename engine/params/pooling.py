"""Pooling parameters of one request."""

from __future__ import annotations

from dataclasses import dataclass

from engine.params.checks import check, check_truncation, is_int


@dataclass(frozen=True, kw_only=True)
class PoolingParams:
    """How one embedding is formed.

    Args:
        normalize: scale the vector to length 1.
        dimensions: keep only the first so many values (Matryoshka models), before normalising.
        use_activation: vLLM's name for ``normalize`` where vectors are concerned; wins over it if given.
        truncate_prompt_tokens: keep only so many tokens of the prompt, its special ones among them, on the side that
            the tokenizer says; -1 keeps what the model can take.
    """

    normalize: bool = True
    dimensions: int | None = None
    use_activation: bool | None = None
    truncate_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        check(
            self.dimensions is None or (is_int(self.dimensions) and self.dimensions >= 1),
            "dimensions",
            self.dimensions,
            "an integer of at least 1, or None",
        )
        for name, allowed in (("normalize", (True, False)), ("use_activation", (True, False, None))):
            check(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(map(str, allowed))}")
        check_truncation(self.truncate_prompt_tokens)

    @property
    def normalizes(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self.normalize if self.use_activation is None else self.use_activation
