"""Whether two sets did the same work on the same machine, and what sets them apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.compare.keys import flat_keys
from runner.compare.outputs import agreement
from runner.compare.run_set import RunSet, started_at
from runner.report.format import shortened

WORK = ("model", "prompt", "sampling", "task", "dataset", "load")
"""Sections that say what is computed; the others (``engine``) say how."""

FILES = ("files", "weights", "tokenizer", "chat_template")
"""What the manifest's ``model`` says of its files; the rest says how it was computed."""

MOST_VALUE = 80  # characters: a digest is shown whole
BEFORE = 20  # characters shown before the first difference of long values
_PATHS = ("dataset.path",)  # counts by content, through the digest


@dataclass(frozen=True)
class Contrast:
    """One thing that is not the same in A and B."""

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class WorkDifferences:
    """``work``: recipe, data, model or prompts, so that A and B did not do the same; ``settings``: how it was done;
    ``environment``: where; ``notes``: what makes timings hard to compare."""

    work: tuple[Contrast, ...]
    settings: tuple[Contrast, ...]
    environment: tuple[Contrast, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both did the same work."""
        return not self.work


def work_differences(a: RunSet, b: RunSet) -> WorkDifferences:
    """Compare configurations, digests and environments of the sets' first runs, and the order of all runs."""
    keys = list(contrasts(*_common(_settings(a), _settings(b))))
    work = [one for one in keys if one.name.split(".")[0] in WORK]
    settings = [one for one in keys if one not in work]
    first, second = a.runs[0].manifest, b.runs[0].manifest
    for name in ("recipe",):
        work += contrasts({name: first.get(name)}, {name: second.get(name)})
    for part, names in (("dataset", ("digest", "rows")), ("model", FILES)):
        work += contrasts(*_named(part, names, first, second))
    numerics = contrasts(*_named("model", _numerics(first, second), first, second))
    environment = (*numerics, *contrasts(_environment(a), _environment(b)))
    return WorkDifferences(tuple(work), tuple(settings), environment, tuple(_notes(a, b)))


def interleaved(a: RunSet, b: RunSet) -> bool:
    """Whether each run of A has one of B as its neighbour in time (A1 B1 A2 B2 or A1 B1 B2 A2), so that the runs are
    pairs that shared what the machine was like."""
    if len(a.runs) != len(b.runs) or not all(started_at(run) for run in (*a.runs, *b.runs)):
        return False
    times = sorted([(started_at(run), "a") for run in a.runs] + [(started_at(run), "b") for run in b.runs])
    sides = [side for _, side in times]
    return all({*sides[i : i + 2]} == {"a", "b"} for i in range(0, len(sides), 2))


def _settings(runs: RunSet) -> dict[str, Any]:
    return {key: value for key, value in flat_keys(runs.config).items() if key not in _PATHS}


def _common(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two kinds of engines only the arguments that both have."""
    if a.get("engine.kind") == b.get("engine.kind"):
        return a, b
    own = {key for key in a.keys() ^ b.keys() if key.startswith("engine.")}
    first, second = ({key: value for key, value in side.items() if key not in own} for side in (a, b))
    return first, second


def _numerics(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What both manifests say of how the model was computed; its name is in the configuration."""
    names = {**(first.get("model") or {}), **(second.get("model") or {})}
    return [name for name in names if name not in ("name", "revision", *FILES)]


def _named(part: str, names: Iterable[str], *manifests: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of a part of each manifest, named for people."""
    return [{f"{part} {name}": (one.get(part) or {}).get(name) for name in names} for one in manifests]


def _environment(runs: RunSet) -> dict[str, Any]:
    run = runs.runs[0]
    return environment_facts(run.manifest) | {"device": (run.metrics.get("engine") or {}).get("device")}


def environment_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Machine, versions, variables and sources of a manifest, flat and named for people."""
    environment = manifest.get("environment") or {}
    facts = {name: environment.get(name) for name in ("python", "platform", "cpu", "cpu_cores", "memory_gib", "gpus")}
    facts |= {f"package {name}": version for name, version in (environment.get("packages") or {}).items()}
    facts |= {f"variable {name}": value for name, value in (environment.get("variables") or {}).items()}
    git = manifest.get("git") or {}
    return facts | {"git commit": git.get("commit"), "changes since the commit": git.get("diff_digest")}


def contrasts(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Contrast]:
    """What the two do not have in common, as text."""
    for name in dict.fromkeys((*a, *b)):
        if a.get(name) != b.get(name):
            yield Contrast(name, *_texts(a.get(name), b.get(name)))


def _texts(a: Any, b: Any) -> tuple[str, str]:
    """Both values, shortened; of long ones what surrounds the first difference."""
    first, second = _text(a), _text(b)
    if first == second:  # only white space differs, or the type: 1 and "1"
        first, second = (json.dumps(value, ensure_ascii=False, default=str) for value in (a, b))
    shared = agreement(first, second)
    start = shared - BEFORE if shared > MOST_VALUE - BEFORE and max(len(first), len(second)) > MOST_VALUE else 0
    mark = "… " if start else ""
    return mark + shortened(first[start:], MOST_VALUE), mark + shortened(second[start:], MOST_VALUE)


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())


def _notes(a: RunSet, b: RunSet) -> Iterator[str]:
    for name, runs in (("A", a), ("B", b)):
        if runs.unfinished:
            yield f"{len(runs.unfinished)} unfinished runs of {name} are left out."
        resumed = sum(len(run.metrics.get("sessions") or []) > 1 for run in runs.runs)
        if resumed:
            yield f"{resumed} of {name}'s runs were resumed: their timings are not those of one process."
    ends = [max(map(started_at, one.runs)) for one in (a, b)]
    begins = [min(map(started_at, one.runs)) for one in (a, b)]
    apart = ends[0] < begins[1] or ends[1] < begins[0]
    if len(a.runs) > 1 and len(b.runs) > 1 and apart:
        yield (
            "All runs of one set came before those of the other: a drift of the machine in that time looks like a "
            "difference. Interleaved repeats (A1 B1 A2 B2) exclude that."
        )
