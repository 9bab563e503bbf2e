"""Parameters of a beam search."""

from __future__ import annotations

from dataclasses import dataclass

from engine.params.checks import check, is_int, is_number


@dataclass(frozen=True)
class BeamSearchParams:
    """How the likeliest whole continuations of a prompt are searched. Names and defaults follow vLLM.

    Args:
        beam_width: continuations that are kept at every token.
        max_tokens: most tokens of a continuation.
        ignore_eos: go on past the end-of-sequence ids.
        temperature: divides the logits before they become log-probabilities; 0 leaves them alone.
        length_penalty: a continuation scores its summed log-probability over length to this power.
        include_stop_str_in_output: keep the end-of-sequence token's text in the text.
        skip_special_tokens: leave special tokens out of the text.

    Raises:
        ParameterError: a value is outside its range.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value = getattr(self, name)
            check(is_int(value) and value >= 1, name, value, "an integer of at least 1")
        check(is_number(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more")
        check(is_number(self.length_penalty), "length_penalty", self.length_penalty, "a number")
