"""Whether a request kept to its limits."""

from __future__ import annotations

from collections.abc import Mapping

from runner.journal import Entry


def is_good(entry: Entry, limits: Mapping[str, float]) -> bool:
    """Whether a request ended without error and within every limit (ms), from its arrival on.

    A request with one output token has no TPOT, and so keeps to any limit of it.
    """
    if entry.error is not None or entry.arrival_s is None or entry.last_token_s is None:
        return False
    spans: dict[str, float | None] = {"e2e_ms": entry.last_token_s - entry.arrival_s, "ttft_ms": None, "tpot_ms": None}
    if entry.first_token_s is not None:
        spans["ttft_ms"] = entry.first_token_s - entry.arrival_s
        if entry.output_tokens > 1:
            spans["tpot_ms"] = (entry.last_token_s - entry.first_token_s) / (entry.output_tokens - 1)
    return all(span is None or span * 1e3 <= limits.get(name, span * 1e3) for name, span in spans.items())
