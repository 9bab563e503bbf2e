"""Rotary settings of GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.model.gguf_rope import rope_config

LINEAR = {"scaling.type": "linear", "scaling.factor": 4.0}
YARN = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32768}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, {"rope_theta": 10000.0}),
        ({"freq_base": 1e6, "dimension_count": 64, "scaling.type": "none"}, {"rope_theta": 1e6}),
        ({"dimension_count": 32}, {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        (LINEAR, {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        (
            YARN,
            {
                "rope_theta": 10000.0,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
        ),
    ],
)
def test_metadata_becomes_config(metadata: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rope_config(metadata, None, 64, Path("m.gguf")) == expected


def test_unknown_scaling_is_named() -> None:
    with pytest.raises(ValueError, match=r"m\.gguf: rope scaling 'longrope' is not supported; supported: none, linear"):
        rope_config({"scaling.type": "longrope"}, None, 64, Path("m.gguf"))
