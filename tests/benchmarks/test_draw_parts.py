"""The parts of a draw that benchmarks time: draws as they were give the same tokens, and every part is measured."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.draw_parts import Meter, as_before
from engine.execute import logits_processing
from tests.engine.sampler_requests import CPU, VOCAB, request, sample


def test_draws_as_before_draw_the_same() -> None:
    rng = np.random.default_rng(3)
    requests = [request(i, temperature=i % 2, seed=i) for i in range(9)]
    grammars = {one: set(rng.choice(VOCAB, 12, replace=False).tolist()) for one in requests[::2]}
    logits = torch.from_numpy(rng.normal(0, 3, (9, VOCAB)).astype(np.float32))
    now = sample(logits, requests, grammars)
    meter, function = Meter(CPU), logits_processing.apply_bitmask
    with as_before(meter):
        assert sample(logits, requests, grammars) == now
    assert logits_processing.apply_bitmask is function
    parts = meter.take()
    assert set(parts) == {"copy", "process", "apply masks"}
    assert all(host > 0 == device for host, device in parts.values())
    assert meter.take() == {}
