"""Installed versions against those that the project supports."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runner.doctor.finding import Finding

PROJECT = "galley"
OLDEST_PYTHON = (3, 11)


def check_libraries() -> Iterator[Finding]:
    """Python, then one line for each dependency that is missing or outside its range, or one for all of them."""
    found = platform.python_version()
    python = tuple(int(part) for part in platform.python_version_tuple()[:2])
    fine = python >= OLDEST_PYTHON
    fix = "" if fine else f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    yield Finding("OK" if fine else "FAIL", "python", found, fix)
    try:
        declared = requires(PROJECT) or []
    except PackageNotFoundError:
        yield Finding(
            "WARN", "libraries", f"{PROJECT} is not installed, so its requirements are not known", "pip install ."
        )
        return
    needed = [one for one in map(Requirement, declared) if _applies(one)]
    wrong = [finding for one in needed if (finding := _check(one)) is not None]
    yield from wrong
    if not wrong:
        names = ", ".join(f"{one.name} {version(one.name)}" for one in needed if one.name in ("torch", "transformers"))
        yield Finding("OK", "libraries", f"all {len(needed)} within their supported ranges ({names})")


def _applies(requirement: Requirement) -> bool:
    """Whether it is needed here; extras are not."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _check(requirement: Requirement) -> Finding | None:
    name, wanted = canonicalize_name(requirement.name), str(requirement.specifier)
    fix = f"pip install '{requirement.name}{wanted}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding("FAIL", f"library {name}", f"missing; needed {wanted or 'in any version'}", fix)
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return Finding("FAIL", f"library {name}", f"{found}; supported {wanted}", fix)
