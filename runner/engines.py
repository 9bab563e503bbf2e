"""The engine that a configuration asks for, and its errors as messages."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.params import ParameterError
from runner.config import Config, engine_args
from runner.config.load import OnlineLoad
from runner.config.peers import TransformersEngine, VllmEngine
from runner.config.sections import NullEngine
from runner.drive import Engine
from runner.errors import ConfigError, RunFailedError, RunnerError
from runner.load.engine import LoadEngine

_log = logging.getLogger(__name__)


@contextmanager
def open_engine(config: Config, run_dir: Path) -> Iterator[Engine | LoadEngine]:
    """The engine, closed at the end; for a load the asynchronous one. Imported here: nothing before this needs torch.

    Raises:
        ConfigError: the model or an argument is wrong; no row was run.
        RunFailedError: the machine failed (memory, disk) while the model was loaded.
    """
    with engine_errors("while the model was loaded"), _refusals():
        load = config.load
        found = _engine(config, run_dir, online=isinstance(load, OnlineLoad))
        engine = LoadEngine(found, load.stream) if isinstance(load, OnlineLoad) else found
    try:
        yield engine
    finally:
        engine.close()


def _engine(config: Config, run_dir: Path, *, online: bool) -> Any:
    """The null engine, a peer or ours; ``online``: for event loops."""
    if isinstance(config.engine, NullEngine):
        from runner.null_async import NullAsyncLLM
        from runner.null_engine import NullLLM

        return (NullAsyncLLM if online else NullLLM)(**config.engine.model_dump(exclude={"kind"}))
    if isinstance(config.engine, TransformersEngine):
        from runner.peers.transformers_llm import TransformersLLM

        return TransformersLLM(config, config.engine, run_dir)
    if isinstance(config.engine, VllmEngine):
        from runner.peers.vllm_llm import VllmLLM

        return VllmLLM(config, config.engine, run_dir)
    from engine import LLM, AsyncLLM

    arguments = engine_args(config)
    if config.model.config is not None:
        arguments = dataclasses.replace(arguments, model=str(_write_model(config.model.config, run_dir)))
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    return (AsyncLLM if online else LLM)(**given)


def _write_model(config: dict[str, Any], run_dir: Path) -> Path:
    """A model folder without weights, for ``load_format=dummy``."""
    folder = run_dir / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


@contextmanager
def _refusals() -> Iterator[None]:
    """What building an engine refuses is a ValueError that says what to change: a wrong value of the configuration."""
    try:
        yield
    except ParameterError as error:
        _log.exception("the engine refused its arguments")
        raise ConfigError(f"the engine refused its arguments: {error}") from None
    except ValueError as error:
        _log.exception("the model cannot be loaded")
        raise ConfigError(f"the model cannot be loaded: {error}") from None


@contextmanager
def engine_errors(when: str) -> Iterator[None]:
    """The engine's errors as one message; the traceback goes to run.log."""
    try:
        yield
    except RunnerError:
        raise
    except Exception as error:
        _log.exception("the engine failed %s", when)
        text = str(error).strip() or type(error).__name__
        raise RunFailedError(f"the engine failed {when}: {text}\nmore in run.log") from None
