"""Entries of ``generation_config.json`` that give sampling parameters their defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from engine.params.checks import ParameterError, check, is_int
from engine.params.sampling import SamplingParams

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "repetition_penalty": "repetition_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "max_new_tokens": "max_tokens",
    }
)
"""Their names there, and the fields of SamplingParams that they set."""


def check_generation_overrides(overrides: Any) -> None:
    """Refuse overrides that would do nothing, or that no request could have.

    Raises:
        ParameterError: the message names the entry, the value and what is allowed.
    """
    name = "override_generation_config"
    check(isinstance(overrides, Mapping), name, overrides, "a mapping of generation_config.json's entries")
    known = (*NAMES, "eos_token_id")
    for key, value in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(name, {key: value}, f"a mapping of {', '.join(known)}{hint}")
    eos = overrides.get("eos_token_id")
    ids = eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos]
    check(all(is_int(one) and one >= 0 for one in ids), name, {"eos_token_id": eos}, "a token id or a list of them")
    SamplingParams(**{NAMES[key]: value for key, value in overrides.items() if key in NAMES and value is not None})
