"""transformers' ``generate`` on static batches, as its documentation uses it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.device import describe, release_memory, set_threads
from engine.outputs import RequestMetrics, RequestOutput
from engine.params import Prompt, SamplingParams
from engine.params.sampling import GREEDY_BELOW
from engine.stats import EngineStats
from runner.config import Config
from runner.config.peers import TransformersEngine
from runner.peers.books import Books
from runner.peers.model import PeerModel, open_peer_model
from runner.peers.requests import PeerRequest, completion, read_requests


class TransformersLLM:
    """The runner's interface to an engine, over ``AutoModelForCausalLM``.

    Prompts are padded on the left to the longest of their batch, and the batch runs until its last row has ended.

    Raises:
        ValueError: the model cannot be loaded; the message says why.
    """

    def __init__(self, config: Config, section: TransformersEngine, run_dir: Path) -> None:
        import transformers

        set_threads()
        began = time.monotonic()
        self._model = open_peer_model(config, section, run_dir)
        self._rows = section.max_num_seqs
        found = time.monotonic()
        self._hf: Any = _load(self._model, section)
        torch.manual_seed(section.seed)
        numerics = {
            "engine": f"transformers {transformers.__version__}",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "attention": str(self._hf.config._attn_implementation),
            "batch": str(self._rows),
        }
        startup = {"tokenizer": found - began, "load": time.monotonic() - found}
        self._books = Books(describe(self._model.device), numerics, startup)

    def close(self) -> None:
        """Give the weights' memory back."""
        self._hf = None
        release_memory(self._model.device)

    def stats(self) -> EngineStats:
        """Totals so far."""
        return self._books.stats()

    def stream(
        self, prompts: Iterable[Prompt], params: SamplingParams | Iterable[SamplingParams] | None = None
    ) -> Iterator[RequestOutput]:
        """Each prompt's output, batch by batch."""
        batch: list[PeerRequest] = []
        for one in read_requests(prompts, SamplingParams() if params is None else params, self._model):
            if isinstance(one, RequestOutput):
                yield one
                continue
            if batch and (len(batch) == self._rows or _settings(one) != _settings(batch[0])):
                yield from self._run(batch)
                batch = []
            batch.append(one)
        if batch:
            yield from self._run(batch)

    def _run(self, batch: Sequence[PeerRequest]) -> Iterator[RequestOutput]:
        books, clock = self._books, _Clock(self._books, len(batch))
        longest = max(len(request.token_ids) for request in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, longest - len(request.token_ids) :] = torch.tensor(request.token_ids)
            mask[row, longest - len(request.token_ids) :] = 1
        began, books.running = time.monotonic(), len(batch)
        with torch.inference_mode():
            found = self._hf.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                generation_config=_generation_config(batch),
                stopping_criteria=[clock],
                **self._stops(batch[0].params),
            )
        books.busy_seconds += time.monotonic() - began
        books.running = 0
        for request, row in zip(batch, found[:, longest:].tolist(), strict=True):
            yield books.finish(self._output(request, row, began, clock.moments))

    def _output(self, request: PeerRequest, tokens: list[int], began: float, moments: list[float]) -> RequestOutput:
        one = completion(request, tokens, self._model.tokenizer)
        metrics = RequestMetrics(request.arrival, began, moments[0], moments[len(one.token_ids) - 1])
        return RequestOutput(str(request.number), None, request.token_ids, (one,), metrics=metrics)

    def _stops(self, params: SamplingParams) -> dict[str, Any]:
        """transformers looks for stop strings itself, so that a batch need not run on behind them."""
        if not params.stop_strings or self._model.tokenizer is None:
            return {}
        return {"stop_strings": list(params.stop_strings), "tokenizer": self._model.tokenizer.hf}


class _Clock:
    """Notes when each step of a batch ended; asked by ``generate`` after every token, it never stops a row."""

    def __init__(self, books: Books, rows: int) -> None:
        self.moments: list[float] = []
        self._books, self._rows, self._before = books, rows, books.output_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        self.moments.append(time.monotonic())
        self._books.steps += 1
        self._books.note(self._before + self._rows * len(self.moments), self.moments[-1])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _load(model: PeerModel, section: TransformersEngine) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    chosen = {} if section.attn_implementation is None else {"attn_implementation": section.attn_implementation}
    try:
        if model.dummy:
            config = AutoConfig.from_pretrained(model.folder)
            torch.manual_seed(section.seed)
            loaded = AutoModelForCausalLM.from_config(config, dtype=model.dtype, **chosen)
        else:
            loaded = AutoModelForCausalLM.from_pretrained(model.folder, dtype=model.dtype, **chosen)
    except (OSError, ImportError) as error:
        raise ValueError(f"transformers cannot load {model.folder}: {error}") from None
    return loaded.to(model.device).eval()


def _settings(request: PeerRequest) -> tuple[Any, ...]:
    """What the rows of a batch must have in common; how long they may get is no part of it."""
    shared = replace(request.params, max_tokens=None, min_tokens=0)
    return (shared, request.params.min_tokens, request.ends)


def _generation_config(batch: Sequence[PeerRequest]) -> Any:
    """One for all rows; the longest one's length, the others are cut. Nothing is taken from the model's own file."""
    from transformers import GenerationConfig

    params, ends = batch[0].params, sorted(batch[0].ends)
    greedy = params.temperature < GREEDY_BELOW
    drawing = {} if greedy else {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": max(params.top_k, 0),
        "min_p": params.min_p or None,
    }  # fmt: skip
    return GenerationConfig(
        max_new_tokens=max(request.room for request in batch),
        min_new_tokens=params.min_tokens or None,
        do_sample=not greedy,
        repetition_penalty=params.repetition_penalty,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        **drawing,
    )
