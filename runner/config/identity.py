"""What makes two runs the same run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from engine.text.template import read_template
from runner.config.metrics import reference_of
from runner.config.schema import Config
from runner.dataset.files import digest, find_files

COSMETIC = {
    "name", "output_root", "resume", "job", "progress", "tracking", "sinks", "measure", "sweep", "max_error_rate",
    "max_truncated_rate", "metrics", "require",
}  # fmt: skip
"""Sections that change what is shown or where it goes, and no record."""


def identity(config: Config, dataset_fingerprint: str) -> dict[str, Any]:
    """What the run does, as plain data. Dataset and chat template count by content, not by path."""
    what = config.model_dump(mode="json", exclude=COSMETIC)
    what["task"]["keep_columns"] = list(kept_columns(config))  # a metric's reference goes into the records
    what["dataset"].pop("path", None)
    what["dataset"]["fingerprint"] = dataset_fingerprint
    if config.prompt.few_shot is not None:
        path = config.prompt.few_shot.path
        examples = None if path is None else digest(find_files(path, "prompt.few_shot.path"))
        what["prompt"]["few_shot"] |= {"path": None, "examples": examples}
    for section in ("model", "task"):
        if what[section].get("chat_template") is not None:
            what[section]["chat_template"] = read_template(what[section]["chat_template"])
    return what


def kept_columns(config: Config) -> tuple[str, ...]:
    """The dataset's columns that go into the records: those that the task names, and the references of metrics."""
    references = [reference for metric in config.metrics if (reference := reference_of(metric)) is not None]
    return tuple(dict.fromkeys((*config.task.keep_columns, *references)))


def config_hash(what: dict[str, Any]) -> str:
    """sha256 (hex) over an identity."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
