"""What must hold between sections, found out before anything is loaded."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from engine.args import EngineArgs
from engine.params import ParameterError, SamplingParams
from engine.text.template import ChatTemplateError, read_template, template_traits
from runner.config.load_checks import check_load
from runner.config.metrics import JsonValid, reference_of
from runner.config.peers import check_peer
from runner.config.schema import Config
from runner.config.sections import ChatTask, EmbedTask, GenerateTask, NativeEngine
from runner.errors import ConfigError, listing, nearest
from runner.quality.requirements import known_names, parse_requirement

RESERVED = ("id", "prompt", "output", "token_ids", "logprobs", "prompt_logprobs", "finish_reason", "prompt_tokens",
            "output_tokens", "message", "error")  # fmt: skip
SAMPLING_FIELDS = tuple(field.name for field in fields(SamplingParams) if field.init)


def check(config: Config) -> None:
    """Everything that one section alone cannot know.

    Raises:
        ConfigError: the message names the keys, their values and what would be right.
    """
    if isinstance(config.engine, NativeEngine):
        engine_args(config)
    if config.model.config is not None and config.model.load_format != "dummy":
        raise ConfigError(
            f"model.load_format={config.model.load_format!r} is not allowed with model.config: it must be 'dummy', "
            f"because a config alone has no weights"
        )
    _check_template(config)
    _check_prompt(config)
    _check_sampling(config)
    check_peer(config)
    _check_columns(config)
    _check_sinks(config)
    check_load(config)
    _check_metrics(config)
    _check_requirements(config)


def engine_args(config: Config) -> EngineArgs:
    """The native engine's arguments, from the sections ``model``, ``engine`` and ``task``.

    Raises:
        ConfigError: an argument outside its range.
    """
    engine = config.engine.model_dump(exclude={"kind"})
    model = config.model.model_dump(exclude={"name", "max_model_len", "config"})
    engine["max_model_len"] = engine["max_model_len"] or config.model.max_model_len
    if isinstance(config.task, ChatTask) and config.task.chat_template is not None:
        model["chat_template"] = config.task.chat_template
    runner: Literal["pooling", "generate"] = "pooling" if isinstance(config.task, EmbedTask) else "generate"
    try:
        return EngineArgs(model=config.model.name, runner=runner, **model, **engine)
    except ParameterError as error:
        name = str(error).partition("=")[0]
        section = "model" if name in model else "engine"
        raise ConfigError(f"{section}.{error}") from None


def _check_template(config: Config) -> None:
    for name in ("task", "model"):
        source = getattr(getattr(config, name), "chat_template", None)
        try:
            if source is not None:
                template_traits(read_template(source))
        except ChatTemplateError as error:
            raise ConfigError(f"{name}.chat_template: {error}") from None


def _check_prompt(config: Config) -> None:
    prompt, task = config.prompt, config.task
    given = {name for name, value in prompt if value is not None and name != "few_shot"}
    if isinstance(task, ChatTask):
        allowed, choices = {"system", "user", "messages"}, [{"user"}, {"system", "user"}, {"messages"}]
    elif isinstance(task, GenerateTask):
        allowed, choices = {"template", "token_ids"}, [{"template"}, {"token_ids"}]
    else:
        allowed, choices = {"template"}, [{"template"}]
    wrong = sorted(given - allowed)
    if wrong:
        raise ConfigError(
            f"prompt.{wrong[0]} has no meaning for task={task.kind}: it takes "
            f"{listing('prompt.' + name for name in allowed)} (set prompt.{wrong[0]}=null, or choose another task)"
        )
    if given not in choices:
        ways = " or ".join(" and ".join(f"prompt.{name}" for name in sorted(choice)) for choice in choices)
        raise ConfigError(f"task={task.kind} needs {ways}; given: {listing('prompt.' + name for name in given)}")
    if prompt.few_shot is not None and (isinstance(task, EmbedTask) or not given & {"template", "user"}):
        raise ConfigError("prompt.few_shot goes with prompt.user (task=chat) or prompt.template (task=generate)")
    if isinstance(config.engine, NativeEngine) and config.engine.skip_tokenizer_init:
        if given != {"token_ids"}:
            raise ConfigError(
                "engine.skip_tokenizer_init=True needs prompt.token_ids: without a tokenizer there is no text"
            )
        if config.sampling.detokenize:
            raise ConfigError("engine.skip_tokenizer_init=True needs sampling.detokenize=false")


def _check_sampling(config: Config) -> None:
    sampling, task = config.sampling, config.task
    if isinstance(task, EmbedTask):
        for name in SAMPLING_FIELDS:
            if getattr(sampling, name) != getattr(SamplingParams(), name):
                raise ConfigError(
                    f"sampling.{name}={getattr(sampling, name)!r} has no meaning for task=embed: leave it out"
                )
        return
    for name in task.sampling_columns:
        if name not in SAMPLING_FIELDS:
            raise ConfigError(
                f"task.sampling_columns names {name!r}, which is no sampling parameter{nearest(name, SAMPLING_FIELDS)}"
            )
    longest = getattr(config.engine, "max_model_len", None) or config.model.max_model_len
    if longest and sampling.max_tokens and sampling.max_tokens >= longest and "max_tokens" not in task.sampling_columns:
        raise ConfigError(
            f"sampling.max_tokens={sampling.max_tokens} leaves no room for a prompt: it must be below "
            f"max_model_len={longest}"
        )


def _check_columns(config: Config) -> None:
    for name in config.task.keep_columns:
        if name in RESERVED:
            raise ConfigError(
                f"task.keep_columns names {name!r}, which the output record uses itself: rename the column"
            )
    if len(set(config.task.keep_columns)) < len(config.task.keep_columns):
        raise ConfigError(f"task.keep_columns={list(config.task.keep_columns)} names a column twice")


def _check_sinks(config: Config) -> None:
    kinds = [sink.kind for sink in config.sinks]
    if not kinds:
        raise ConfigError("sinks=[] is not allowed: name at least one, for instance sinks=[{kind: jsonl}]")
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"sinks={kinds} is not allowed: each kind may be there once")


def _check_metrics(config: Config) -> None:
    if config.metrics and isinstance(config.task, EmbedTask):
        raise ConfigError("metrics judge text: they have no meaning for task=embed")
    if config.metrics and not config.sampling.detokenize:
        raise ConfigError("metrics judge text: they need sampling.detokenize=true")
    seen: set[str] = set()
    for number, metric in enumerate(config.metrics):
        key, reference = f"metrics[{number}]", reference_of(metric)
        if reference in RESERVED:
            raise ConfigError(
                f"{key}.reference={reference!r} is a name that the output record uses itself: rename the column"
            )
        if isinstance(metric, JsonValid) and (fault := metric.fault()) is not None:
            raise ConfigError(f"{key}.json_schema is no JSON schema: {fault}")
        if not metric.names:
            raise ConfigError(f"{key}.types=[] is not allowed: name at least one")
        twice = sorted(seen.intersection(metric.names))
        if twice:
            raise ConfigError(
                f"{key} measures {twice[0]!r}, which another metric measures too: give one of them a name, "
                f"for instance {{kind: {metric.kind}, name: second}}"
            )
        seen.update(metric.names)


def _check_requirements(config: Config) -> None:
    known = known_names([name for metric in config.metrics for name in metric.names])
    for number, text in enumerate(config.require):
        try:
            name = parse_requirement(text).name
        except ValueError as error:
            raise ConfigError(f"require[{number}]={text!r} is not allowed: {error}") from None
        if name not in known and not name.startswith("startup_s/"):
            raise ConfigError(
                f"require[{number}]={text!r} names no metric of this recipe: {name!r}{nearest(name, known)}\n"
                f"metrics: {listing(known)}"
            )
