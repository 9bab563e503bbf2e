"""How much is launched and copied to draw where logits are processed: the same for few rows and for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from engine import SamplingParams
from engine.execute import logits_processing, logits_state
from engine.execute.transfer import Parcel, to_device
from tests.engine.execute.test_cuda_runner import LIMITS, VOCAB, run
from tests.engine.execute.test_cuda_sampling import special_rig
from tests.engine.sampler_requests import packed

NO_LAUNCH = {
    "view",
    "slice",
    "select",
    "unbind",
    "empty",
    "detach",
    "_unsafe_view",
    "unsqueeze",
    "numpy_T",
    "t",
    "alias",
}
KINDS: dict[str, dict[str, Any]] = {
    "grammar": {},
    "bias": {"logit_bias": {1: 2.0, 5: -1.0}},
    "allowed": {"allowed_token_ids": list(range(40))},
    "min_tokens": {"min_tokens": 5, "stop_token_ids": [3, 4]},
    "bad_words": {"bad_words": ["3", "3 4", "5 6 7"]},
    "penalties": {"presence_penalty": 0.5, "repetition_penalty": 1.1},
}
KINDS["all"] = {name: value for kind in KINDS.values() for name, value in kind.items()}


class Launches(TorchDispatchMode):
    """Counts torch's operations that compute something; kernels of ours count as one, whatever stands in for them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._within = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        if not self._within and name not in NO_LAUNCH:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))

    def kernel(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.counts[name] += 1
            self._within = True
            try:
                return function(*args)
            finally:
                self._within = False

        return counted


def steps(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """Launches and copies of each step's draws, beside those of the captured step."""
    made = special_rig(True, replace(LIMITS, max_seqs=rows), monkeypatch)
    runner: Any = made.core.runner
    launches = Launches()
    for module, name in (
        (logits_processing, "process_logits"), (logits_processing, "apply_bitmask"), (logits_processing, "draw"),
        (logits_state, "add_drawn_tokens"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, launches.kernel(name, getattr(module, name)))
    monkeypatch.setattr(Parcel, "send", launches.kernel("copy", Parcel.send))
    for module in (logits_processing, logits_state):
        monkeypatch.setattr(module, "to_device", launches.kernel("copy", to_device))
    found: list[Counter[str]] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any) -> Any:
            launches.counts = Counter()
            with launches:
                result = function(*args)
            found.append(launches.counts)
            return result

        return watch

    monkeypatch.setattr(runner, "_follow", watched(runner._follow))
    monkeypatch.setattr(runner, "_draw_anew", watched(runner._draw_anew))
    if kind in ("grammar", "all"):
        launch, even = runner.launch, packed(set(range(0, VOCAB, 2)), VOCAB)
        monkeypatch.setattr(
            runner,
            "launch",
            lambda plan, _=None: launch(plan, lambda: {p.request: even for p in plan.slices if p.samples}),
        )
    params = [SamplingParams(max_tokens=5, ignore_eos=True, temperature=0, **KINDS[kind]) for _ in range(rows)]
    run(made.core, [[1 + i, 2, 3] for i in range(rows)], params)
    return [follow + draw for follow, draw in zip(found[::2], found[1::2], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_copy_and_a_launch_for_each_thing_done(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        few = steps(kind, 2, patch)
    many = steps(kind, 12, monkeypatch)
    wanted = Counter(copy=1, draw=1, scatter_=2)  # the drawn tokens: to the step's, and to the rows'
    wanted += Counter(process_logits=kind != "penalties")
    wanted += Counter(apply_bitmask=kind in ("grammar", "all"))
    wanted += Counter(add_drawn_tokens=kind in ("penalties", "bad_words", "all"))
    assert many[2] == few[2] == wanted
    assert many[1] == wanted + Counter(copy=wanted["add_drawn_tokens"]), "once, where the rows of the batch are new"
    growth = {"cat", "new_full"}  # of pools, by doubling
    first = [{name: n for name, n in found[0].items() if name not in growth} for found in (few, many)]
    assert first[0] == first[1], "new requests too"
    assert first[0]["copy"] <= 4
