"""The whole configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from engine.params import SamplingParams
from runner.config.dataset import DatasetSection
from runner.config.load import LoadSection, OfflineLoad
from runner.config.metrics import MetricSection
from runner.config.peers import PeerEngine
from runner.config.sections import (
    ChatTask,
    EmbedTask,
    GenerateTask,
    MeasureSection,
    MlflowTracking,
    ModelSection,
    NativeEngine,
    NoTracking,
    NullEngine,
    PromptSection,
    Section,
    SinkSection,
)
from runner.config.sweep import SweepSection

TaskSection = GenerateTask | ChatTask | EmbedTask
EngineSection = NativeEngine | NullEngine | PeerEngine


class Config(Section):
    """Everything a run is told. Checked within sections here, across them in ``runner.config.checks``.

    Args:
        max_error_rate: share of rows in error above which the run fails at its end.
        max_truncated_rate: share of rows cut at the token limit above which the report calls the run INVALID; ``None``
            is the report's own limit, 1.0 never does.
        metrics: how outputs are judged once the run is over.
        require: what metrics must hold, ``rouge1 >= 0.40``; otherwise the run ends with an exit code of its own.
        job: the file of the job that this run is; sweeps set it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
    model: ModelSection
    engine: Annotated[EngineSection, Field(discriminator="kind")]
    sampling: SamplingParams
    task: Annotated[TaskSection, Field(discriminator="kind")]
    prompt: PromptSection
    dataset: DatasetSection
    sinks: tuple[SinkSection, ...] = (SinkSection(kind="jsonl"),)
    tracking: Annotated[MlflowTracking | NoTracking, Field(discriminator="kind")]
    load: LoadSection = OfflineLoad()
    measure: MeasureSection = MeasureSection()
    sweep: SweepSection = SweepSection()
    metrics: tuple[MetricSection, ...] = ()
    require: tuple[str, ...] = ()
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_truncated_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    output_root: Annotated[str, Field(min_length=1)] = "outputs"
    resume: str | None = None
    job: str | None = None
    progress: bool = True
