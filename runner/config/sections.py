"""The sections of a configuration as frozen models. Keys that are not listed here are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSection(Section):
    """Which model, and how its weights are read. Meanings as in ``engine.args.EngineArgs``.

    ``config`` is a whole config.json in place of a model's files, for ``load_format: dummy``; ``name`` then only names.
    """

    name: Annotated[str, Field(min_length=1)]
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    load_format: str = "auto"
    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    chat_template: str | None = None
    generation_config: str = "auto"
    override_generation_config: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] | None = None


class NativeEngine(Section):
    """Galley's engine. Meanings as in ``engine.args.EngineArgs``; ``max_model_len`` wins over the model's."""

    kind: Literal["native"] = "native"
    device: str = "auto"
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    scheduling_policy: str = "longest_first"
    enable_pacing: bool = True
    enable_admission_control: bool = True
    preemption_mode: str = "recompute"
    swap_space: float = 4.0
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    batch_invariant: bool = True
    enforce_eager: bool = False
    async_scheduling: bool = True
    disable_cascade_attn: bool = False
    concurrent_attention: bool = False
    skinny_gemm: bool = True
    fused_gate: bool = True
    split_prefill: bool = True
    programmatic_launch: bool = True
    speculative_config: dict[str, Any] | None = None
    skip_tokenizer_init: bool = False


class NullEngine(Section):
    """No model: made-up outputs at declared speeds. See ``runner.null_engine``."""

    kind: Literal["null_engine"] = "null_engine"
    startup_seconds: Annotated[float, Field(ge=0)] = 0.0
    seconds_per_request: Annotated[float, Field(ge=0)] = 0.0
    seconds_per_prompt_token: Annotated[float, Field(ge=0)] = 0.0
    seconds_per_step: Annotated[float, Field(ge=0)] = 0.0
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    fail_after: Annotated[int, Field(ge=0)] | None = None


class Message(Section):
    """One turn of a conversation; ``content`` is Jinja over the row's columns."""

    role: str
    content: str


class FewShotSection(Section):
    """Examples that every prompt begins with: rows here, or a file of JSON lines.

    Args:
        answer: Jinja over an example's columns, as ``prompt.user`` or ``prompt.template`` is for its question.
        limit: the first so many of them.
        separator: between examples of a text; in a chat they are turns.
    """

    rows: tuple[dict[str, Any], ...] = ()
    path: str | None = None
    answer: str
    limit: Annotated[int, Field(ge=1)] | None = None
    separator: str = "\n\n"

    @model_validator(mode="after")
    def _one_source(self) -> FewShotSection:
        if bool(self.rows) == (self.path is not None):
            raise ValueError("rows or path must be given, and not both")
        return self


class PromptSection(Section):
    """How a row becomes a prompt; which keys apply depends on the task."""

    template: str | None = None
    system: str | None = None
    user: str | None = None
    messages: tuple[Message, ...] | str | None = None
    token_ids: str | None = None
    few_shot: FewShotSection | None = None


class GenerateTask(Section):
    """Continue a text. ``sampling_columns`` replace the sampling parameters of the same names, row by row."""

    kind: Literal["generate"] = "generate"
    keep_prompt: bool = False
    keep_token_ids: bool = False
    keep_columns: tuple[str, ...] = ()
    sampling_columns: tuple[str, ...] = ()


class ChatTask(Section):
    """Answer a conversation. ``chat_template`` (a template or a file) wins over the model's; the parsers take answers
    apart, as ``engine.LLM.chat`` does.
    """

    kind: Literal["chat"] = "chat"
    keep_prompt: bool = False
    keep_token_ids: bool = False
    keep_columns: tuple[str, ...] = ()
    sampling_columns: tuple[str, ...] = ()
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()
    reasoning_parser: str | None = None
    tool_parser: str | None = None


class EmbedTask(Section):
    """Embed a text. ``normalize``, ``dimensions`` and ``truncate_prompt_tokens`` as in
    ``engine.params.PoolingParams``.
    """

    kind: Literal["embed"] = "embed"
    keep_prompt: bool = False
    keep_columns: tuple[str, ...] = ()
    normalize: bool = True
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None


class SinkSection(Section):
    """Where finished rows are written, besides the journal."""

    kind: Literal["jsonl", "parquet", "csv", "sqlite", "hf_dataset", "openai_batch"]


class MlflowTracking(Section):
    """MLflow; without a URI a SQLite file under ``output_root``. ``system_metrics`` follows the machine as well."""

    kind: Literal["mlflow"] = "mlflow"
    tracking_uri: str | None = None
    experiment: str | None = None
    system_metrics: bool = True


class NoTracking(Section):
    """No tracking."""

    kind: Literal["none"] = "none"


class MeasureSection(Section):
    """What is measured beside times and tokens: the distance to the machine's ceilings, and the GPU's energy."""

    roofline: bool = True
    energy: bool = True
