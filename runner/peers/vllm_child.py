"""vLLM's side: a script for the interpreter that has vLLM. It knows nothing of this project and imports nothing of it.

    python vllm_child.py DESCRIPTOR

JSON lines. On standard input first the engine's arguments, then requests; ``DESCRIPTOR`` is where answers are written,
because vLLM logs to standard output. The end of the input ends it.
"""

from __future__ import annotations

import os
import sys

# This script's own folder has modules with names of libraries. vLLM's processes read this file anew, without it.
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]

import json
import queue
import threading
import time
from typing import Any, TextIO


def main() -> None:
    """Build the engine, then serve until the input ends."""
    answers = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1)
    began = time.monotonic()
    arguments = json.loads(sys.stdin.readline())
    try:
        import torch
        import vllm

        llm = vllm.LLM(**arguments)
    except BaseException as error:
        _say(answers, failed=f"{type(error).__name__}: {error}", missing=isinstance(error, ModuleNotFoundError))
        raise SystemExit(1) from None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    _say(answers, ready=time.monotonic() - began, version=vllm.__version__, torch=torch.__version__, device=device)
    _serve(llm.llm_engine, answers)


def _serve(engine: Any, answers: TextIO) -> None:
    """Take requests as they come, step while there are any, tell what is finished."""
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    while True:
        while not inbox.empty() or not engine.has_unfinished_requests():
            line = inbox.get()
            if not line:
                return
            _add(engine, json.loads(line), answers)
        for output in engine.step():
            if output.finished:
                _tell(output, answers, engine.get_num_unfinished_requests())


def _read(inbox: queue.SimpleQueue[str]) -> None:
    """All lines, then an empty one; a thread of its own, so that the writer never waits for a step."""
    for line in sys.stdin:
        inbox.put(line)
    inbox.put("")


def _add(engine: Any, request: dict[str, Any], answers: TextIO) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    try:
        params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **request["params"])
        engine.add_request(request["id"], {"prompt_token_ids": request["token_ids"]}, params)
    except (ValueError, TypeError) as error:
        _say(answers, id=request["id"], error=str(error))


def _tell(output: Any, answers: TextIO, running: int) -> None:
    metrics = output.metrics
    times = [None if metrics is None else getattr(metrics, f"{name}_ts") or None for name in _MOMENTS]
    _say(
        answers,
        id=output.request_id,
        tokens=list(output.outputs[0].token_ids),
        reason=output.outputs[0].finish_reason,
        cached=output.num_cached_tokens or 0,
        times=times,
        running=running,
    )


_MOMENTS = ("scheduled", "first_token", "last_token")


def _say(answers: TextIO, **content: Any) -> None:
    answers.write(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
