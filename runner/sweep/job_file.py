"""What a job's process is given: everything, so that it composes nothing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.job import Job
from runner.sink.atomic import replaced


@dataclass(frozen=True)
class JobFile:
    """A job's configuration and place; ``error`` stands where the configuration is wrong."""

    job: Job
    config: dict[str, Any]
    command: list[str]
    wants_gpu: bool
    error: str | None = None

    def write(self) -> Path:
        """Write ``jobs/NNN.json`` and give its path.

        Raises:
            OSError: the disk is full.
        """
        content = dataclasses.asdict(self)
        content["job"]["sweep_dir"] = None  # where the file lies says it
        path = self.job.file("json")
        with replaced(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return path


def read_job_file(path: Path) -> JobFile:
    """Read ``jobs/NNN.json``.

    Raises:
        ConfigError: there is no such file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"job={str(path)!r} is no job's file: {error.strerror}") from None
    data["job"]["sweep_dir"] = path.absolute().parent.parent
    return JobFile(Job(**data.pop("job")), **data)
