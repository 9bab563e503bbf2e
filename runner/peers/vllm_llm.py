"""vLLM in a process of its own, spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from engine.device import cpu_name
from engine.outputs import RequestMetrics, RequestOutput
from engine.params import Prompt, SamplingParams
from engine.stats import EngineStats
from runner.config import Config
from runner.config.peers import VllmEngine
from runner.errors import ConfigError
from runner.peers.books import Books
from runner.peers.model import PeerModel, open_peer_model
from runner.peers.requests import PeerRequest, completion, read_requests

CHILD = Path(__file__).with_name("vllm_child.py")
LOG = "vllm.log"  # in the run folder: everything that vLLM says
AHEAD = 512  # requests that vLLM has at once: more than it runs, so that it never waits for one
LEAVE_SECONDS = 10.0
PASSED = ("seed", "max_num_seqs", "max_num_batched_tokens", "block_size", "gpu_memory_utilization",
          "enable_prefix_caching", "enable_chunked_prefill", "enforce_eager")  # fmt: skip
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


class VllmLLM:
    """The runner's interface to an engine, over a child process with vLLM.

    Raises:
        ConfigError: the interpreter is not there or has no vLLM, or vLLM refuses its arguments.
    """

    def __init__(self, config: Config, section: VllmEngine, run_dir: Path) -> None:
        began = time.monotonic()
        self._model = open_peer_model(config, section, run_dir)
        self._running: dict[int, PeerRequest] = {}
        self._buffer = b""
        self._log = run_dir / LOG
        python = section.python or sys.executable
        self._process, self._answers = _start(python, section.environment, self._log)
        try:
            self._write(engine_arguments(section, self._model))
            about = self._next()
            if "failed" in about:
                raise ConfigError(self._refusal(python, about))
        except BaseException:
            self.close()
            raise
        numerics = {
            "engine": f"vllm {about['version']}",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "torch": about["torch"],
        }
        device = {"type": "cuda", "name": about["device"]} if about["device"] else {"type": "cpu", "name": cpu_name()}
        self._books = Books(device, numerics, {"load": about["ready"], "all": time.monotonic() - began})

    def close(self) -> None:
        """End the process and all that it started."""
        with suppress(OSError):
            _stdin(self._process).close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_SECONDS)
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group of its own; workers may outlive it
        self._process.wait()
        with suppress(OSError):
            os.close(self._answers)

    def stats(self) -> EngineStats:
        """Totals so far, of finished requests."""
        return self._books.stats()

    def stream(
        self, prompts: Iterable[Prompt], params: SamplingParams | Iterable[SamplingParams] | None = None
    ) -> Iterator[RequestOutput]:
        """Each prompt's output as it finishes.

        Raises:
            RuntimeError: vLLM's process has ended.
        """
        requests = read_requests(prompts, SamplingParams() if params is None else params, self._model)
        more, began = True, time.monotonic()
        while more or self._running:
            while more and len(self._running) < AHEAD:
                one = next(requests, None)
                more = one is not None
                if isinstance(one, RequestOutput):
                    yield one
                elif one is not None:
                    self._send(one)
            if self._running:
                output = self._output(self._next())
                self._books.busy_seconds = time.monotonic() - began
                yield output

    def _send(self, request: PeerRequest) -> None:
        self._running[request.number] = request
        self._books.running = len(self._running)
        self._write({"id": str(request.number), "token_ids": list(request.token_ids), "params": _params(request)})

    def _output(self, answer: Mapping[str, Any]) -> RequestOutput:
        request = self._running.pop(int(answer["id"]))
        self._books.running = len(self._running)
        if "error" in answer:
            metrics = RequestMetrics(request.arrival)
            return RequestOutput(answer["id"], None, request.token_ids, (), metrics=metrics, error=answer["error"])
        self._books.running = min(self._books.running, answer["running"])
        self._books.waiting = max(len(self._running) - answer["running"], 0)
        scheduled, first, last = answer["times"]  # on the same clock: Linux has one for all processes
        output = RequestOutput(
            answer["id"],
            None,
            request.token_ids,
            (completion(request, answer["tokens"], self._model.tokenizer),),
            metrics=RequestMetrics(request.arrival, scheduled, first, last or time.monotonic()),
            num_cached_tokens=answer["cached"],
        )
        self._books.finish(output)
        self._books.note()
        return output

    def _write(self, content: Mapping[str, Any]) -> None:
        try:
            _stdin(self._process).write(json.dumps(content).encode() + b"\n")
            _stdin(self._process).flush()
        except OSError:
            raise RuntimeError(self._ended()) from None

    def _next(self) -> dict[str, Any]:
        """The next answer, waited for.

        Raises:
            RuntimeError: the process has ended.
        """
        while b"\n" not in self._buffer:
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                raise RuntimeError(self._ended())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _ended(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"vLLM's process has ended{': ' + lines[0] if lines else ''}; more in {self._log}"

    def _refusal(self, python: str, about: Mapping[str, Any]) -> str:
        if about["missing"]:
            return (
                f"engine=vllm needs vLLM, and {python} does not have it ({about['failed']}): install it there "
                f"(pip install vllm), or name an interpreter that has it with engine.python=PATH"
            )
        return f"vLLM refuses to start: {about['failed']}\nmore in {self._log}"


def engine_arguments(section: VllmEngine, model: PeerModel) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``; those that the recipe leaves open are vLLM's own."""
    given = {name: value for name in PASSED if (value := getattr(section, name)) is not None}
    return {
        "model": str(model.folder),
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_model_len": model.max_model_len,
        "load_format": "dummy" if model.dummy else "auto",
        "skip_tokenizer_init": model.tokenizer is None,
        "generation_config": "vllm",  # the recipe says how to sample, not the model's file
        "disable_log_stats": False,  # requests carry their times
        **given,
        **section.arguments,
    }


def _params(request: PeerRequest) -> dict[str, Any]:
    """vLLM's sampling parameters; what ends an output is given as ids, the same for both engines."""
    own = request.params
    same = ("min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
            "frequency_penalty", "seed", "logit_bias", "allowed_token_ids", "include_stop_str_in_output", "detokenize",
            "skip_special_tokens", "spaces_between_special_tokens")  # fmt: skip
    return {
        **{name: getattr(own, name) for name in same},
        "max_tokens": request.room,
        "ignore_eos": True,
        "stop": list(own.stop_strings) or None,
        "stop_token_ids": sorted(request.ends) or None,
    }


def _start(python: str, environment: Mapping[str, str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    answers, theirs = os.pipe()
    try:
        with log.open("ab") as said:
            process = subprocess.Popen(
                [python, str(CHILD), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=(theirs,),
                env={**_inherited(), **QUIET, **environment},
                start_new_session=True,  # Ctrl-C is ours to handle
                cwd=log.parent,
            )
    except OSError as error:
        os.close(answers)
        raise ConfigError(f"engine.python={python!r} cannot be started: {error.strerror}") from None
    finally:
        os.close(theirs)
    return process, answers


def _inherited() -> dict[str, str]:
    """Our environment without what leads Python to our packages, some of which have names of theirs."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
