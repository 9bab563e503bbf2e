"""Random JSON schemas: whatever a model writes and ends is valid."""

from __future__ import annotations

import json
from collections import Counter

from jsonschema import Draft202012Validator

from benchmarks.random_schemas import random_schemas
from engine import LLM, SamplingParams
from tests.engine.ask import outputs

COUNT = 200
# What the library says of keywords that it cannot enforce, and of schemas that nothing fits.
REFUSED = ("Unimplemented keys", "oneOf constraints", "min/maxProperties only", "Unsatisfiable schema")


def test_every_output_that_ended_is_valid(smol_bf16: LLM) -> None:
    """Half of them greedily, half of them sampled, with and without whitespace, all in one batch."""
    schemas = random_schemas(COUNT)
    params = [
        SamplingParams(
            temperature=i % 2,
            seed=i,
            max_tokens=40,
            structured_outputs={"json": schema, "disable_any_whitespace": i % 4 < 3},  # type: ignore[arg-type]
        )
        for i, schema in enumerate(schemas)
    ]
    ends: Counter[str | None] = Counter()
    for schema, output in zip(schemas, outputs(smol_bf16, ["JSON:"] * COUNT, params), strict=True):
        if output.error is not None:
            assert any(reason in output.error for reason in REFUSED), (schema, output.error)
            ends["refused"] += 1
            continue
        (completion,) = output.outputs
        ends[completion.finish_reason] += 1
        if completion.finish_reason == "stop":
            value = json.loads(completion.text)
            validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
            assert validator.is_valid(value), (schema, completion.text)
    assert ends["refused"] <= 0.1 * COUNT, ends
    assert ends["stop"] >= 0.7 * COUNT, ends
    assert set(ends) == {"stop", "length", "refused"}
