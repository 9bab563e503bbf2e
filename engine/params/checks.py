"""What is wrong with a parameter, said in one way."""

from __future__ import annotations

import math


class ParameterError(ValueError):
    """A parameter outside its allowed range; the message names the field, the value and the range."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name}={value!r} is not allowed: {name} must be {allowed}")


def check(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise ParameterError unless ``ok``."""
    if not ok:
        raise ParameterError(name, value, allowed)


def check_truncation(kept: object) -> None:
    """Verify ``truncate_prompt_tokens``."""
    check(
        kept is None or (isinstance(kept, int) and is_int(kept) and (kept >= 1 or kept == -1)),
        "truncate_prompt_tokens",
        kept,
        "an integer of at least 1, -1 for what the model can take, or None",
    )


def is_int(value: object) -> bool:
    """Whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value: object) -> bool:
    """Whether a value is a list or tuple."""
    return isinstance(value, (list, tuple))
