"""Tasks: from a row to a prompt, and from an output to a record."""

from __future__ import annotations

from runner.task.prompts import check_references
from runner.task.task import Task, open_task, output_tokens
from runner.task.template import RowError

__all__ = ["RowError", "Task", "check_references", "open_task", "output_tokens"]
