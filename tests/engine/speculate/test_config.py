"""speculative_config: what is allowed, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from engine.args import EngineArgs
from engine.params import ParameterError
from engine.speculate.config import SpeculativeConfig, read_speculative_config


def test_defaults() -> None:
    config = read_speculative_config({})
    assert config == SpeculativeConfig(
        method="ngram", num_speculative_tokens=5, prompt_lookup_min=2, prompt_lookup_max=4
    )
    assert read_speculative_config(None) is None
    drafting = read_speculative_config({"model": "small", "num_speculative_tokens": 3})
    assert drafting is not None
    assert (drafting.method, drafting.prompt_lookup_min) == ("draft_model", None)
    high = read_speculative_config({"prompt_lookup_min": 6})
    assert high is not None
    assert (high.prompt_lookup_min, high.prompt_lookup_max) == (6, 6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_speculative_token": 3}, "'num_speculative_tokens', the nearest of method"),
        ({"tokens_to_the_moon": 3}, "speculative_config.key='tokens_to_the_moon' is not allowed"),
        ({"method": "eagle"}, "one of ngram, draft_model"),
        ({"num_speculative_tokens": 0}, "an integer from 1 to 32"),
        ({"num_speculative_tokens": True}, "an integer from 1 to 32"),
        ({"prompt_lookup_min": 0}, "at least 1"),
        ({"prompt_lookup_min": "2"}, "at least 1"),
        ({"prompt_lookup_min": 5, "prompt_lookup_max": 4}, "from prompt_lookup_min=5"),
        ({"method": "ngram", "model": "small"}, "left out with method='ngram'"),
        ({"method": "draft_model"}, "the name of a model"),
        ({"model": "small", "prompt_lookup_max": 4}, "left out with method='draft_model'"),
        ("ngram", "a mapping, or None"),
    ],
)
def test_wrong_values_are_named(values: Any, said: str) -> None:
    with pytest.raises(ParameterError, match="speculative_config") as caught:
        EngineArgs(model="any", speculative_config=values)
    assert said in str(caught.value)
