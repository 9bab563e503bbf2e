"""The whole configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from engine.params import SamplingParams
from runner.config.dataset import DatasetSection
from runner.config.sections import (
    ChatTask,
    EmbedTask,
    GenerateTask,
    LoadSection,
    MlflowTracking,
    ModelSection,
    NativeEngine,
    NoTracking,
    NullEngine,
    PromptSection,
    Section,
    SinkSection,
)

TaskSection = GenerateTask | ChatTask | EmbedTask
EngineSection = NativeEngine | NullEngine


class Config(Section):
    """Everything a run is told. Checked within sections here, across them in ``runner.config.checks``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
    model: ModelSection
    engine: Annotated[EngineSection, Field(discriminator="kind")]
    sampling: SamplingParams
    task: Annotated[TaskSection, Field(discriminator="kind")]
    prompt: PromptSection
    dataset: DatasetSection
    sinks: tuple[SinkSection, ...] = (SinkSection(kind="jsonl"),)
    tracking: Annotated[MlflowTracking | NoTracking, Field(discriminator="kind")]
    load: LoadSection = LoadSection()
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    output_root: Annotated[str, Field(min_length=1)] = "outputs"
    resume: str | None = None
    progress: bool = True
