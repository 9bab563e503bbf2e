"""The manifest: everything that decides a run's results, so that somebody else can tell whether theirs is the same."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.device import cpu_name
from runner.run_info import RunInfo

SCHEMA = 1
PACKAGES = (
    "galley", "torch", "triton", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "numba", "llvmlite",
    "llguidance", "jinja2", "huggingface_hub", "hydra-core", "omegaconf", "pydantic", "datasets", "pyarrow", "scipy",
    "rouge-score", "sacrebleu", "jsonschema", "mlflow", "vllm",
)  # fmt: skip
"""Libraries whose version may show in a run's results or figures."""

VARIABLES = ("OMP_", "MKL_", "CUDA", "CUBLAS", "NCCL_", "TRITON_", "TORCH", "PYTORCH", "GALLEY", "HF_HUB_OFFLINE")
SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD")
PROBE_SECONDS = 10.0


def build(run: RunInfo, *, dataset: dict[str, Any], model: dict[str, Any], outputs: dict[str, str]) -> dict[str, Any]:
    """The content of manifest.json.

    Args:
        run: what ran.
        dataset: ``source``, ``rows``, ``digest`` and, if it has one, ``name`` of the input, as far as known.
        model: name and digests of weights, tokenizer and chat template, as far as known.
        outputs: file name in the run folder to digest.
    """
    return {
        "schema": SCHEMA,
        "recipe": run.recipe,
        "run_id": run.run_id,
        "config_hash": run.config_hash,
        "config": run.config,
        "command": run.command,
        "command_line": shlex.join(run.command),
        "folder": str(Path.cwd()),
        "written_at": utc_now(),
        "dataset": dataset,
        "model": model,
        "outputs": outputs,
        "environment": environment(),
        "git": git_state(Path.cwd()),
    }


def utc_now() -> str:
    """The time in UTC as ISO 8601 with seconds, ``2025-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def dataset_name(dataset: Mapping[str, Any]) -> str:
    """A short name for the manifest's ``dataset``: its name, or the last part of where it came from."""
    return str(dataset.get("name") or str(dataset.get("source") or "").rstrip("/").rpartition("/")[2])


def digest_file(path: Path) -> str:
    """``sha256:HEX`` of a file's bytes, read piece by piece.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, Any]:
    """Machine, operating system, package versions, GPUs and the variables that change results or speed. Imports none of
    the packages."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "gpus": gpus(),
        "variables": variables(os.environ),
    }


def variables(source: Mapping[str, str]) -> dict[str, str]:
    """The relevant environment variables, sorted; the value of anything that looks like a secret is left out."""
    return {
        name: "(not shown)" if any(word in name for word in SECRET_WORDS) else source[name]
        for name in sorted(source)
        if name.startswith(VARIABLES)
    }


def gpus() -> list[dict[str, str]]:
    """Name, driver, memory, power limit and highest SM clock of each NVIDIA GPU; empty without nvidia-smi."""
    fields = {
        "name": "name",
        "driver": "driver_version",
        "memory": "memory.total",
        "power_limit": "power.limit",
        "max_sm_clock": "clocks.max.sm",
    }
    text = _output(["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"], Path.cwd())
    rows = [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, whether tracked files differ from it, and a digest of the difference; ``None`` outside a repository."""
    commit = _output(["git", "rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    diff = _output(["git", "diff", "HEAD", "--no-color", "--no-ext-diff", "--binary"], folder) or ""
    return {
        "commit": commit.strip(),
        "dirty": bool(diff),
        "diff_digest": "sha256:" + hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(command: list[str], folder: Path) -> str | None:
    """What a probe printed, or ``None`` if it is not installed, failed or hung: a manifest never stops a run."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
