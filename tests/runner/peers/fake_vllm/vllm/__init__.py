"""Stands in for vLLM in its process: answers with the prompt backwards, over and over."""

import itertools
import json
import os
import time
from types import SimpleNamespace

__version__ = "0.0-fake"


class SamplingParams:
    def __init__(self, **given):
        if given["temperature"] > 50:
            raise ValueError("temperature is too hot for vLLM")
        self.__dict__.update(given)


class _Engine:
    def __init__(self):
        self.running = []

    def add_request(self, name, prompt, params):
        print("a line on standard output, where answers must not be")
        self.running.append((name, prompt["prompt_token_ids"], params, time.monotonic()))

    def has_unfinished_requests(self):
        return bool(self.running)

    def get_num_unfinished_requests(self):
        return len(self.running)

    def step(self):
        name, ids, params, scheduled = self.running.pop()
        if ids == [13]:
            os._exit(9)
        tokens = []
        for token in itertools.islice(itertools.cycle(reversed(ids)), params.max_tokens):
            tokens.append(token)
            if token in (params.stop_token_ids or ()):
                break
        first = time.monotonic()
        metrics = SimpleNamespace(scheduled_ts=scheduled, first_token_ts=first, last_token_ts=time.monotonic())
        one = SimpleNamespace(token_ids=tokens, finish_reason="length")
        output = SimpleNamespace(request_id=name, outputs=[one], metrics=metrics, num_cached_tokens=1, finished=True)
        return [output]


class LLM:
    def __init__(self, **given):
        if given["seed"] == 666:
            raise ValueError("an unlucky seed")
        with open("arguments.json", "w") as file:
            json.dump(given, file)
        self.llm_engine = _Engine()
