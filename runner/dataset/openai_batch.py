"""Requests in the format of OpenAI's batch API: https://platform.openai.com/docs/guides/batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.dataset.jsonl import JsonlSource
from runner.dataset.rows import Malformed, Record

PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}
"""Each endpoint's key of the prompt, and so the column that holds it."""

PARAMETERS = (
    "max_tokens", "temperature", "top_p", "n", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias",
    "logprobs", "structured_outputs", "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos",
)  # fmt: skip
"""Columns that replace the sampling parameter of the same name, row by row; null where the request says nothing."""

NO_EFFECT = frozenset({"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Keys of a body that change no output here. The model is the recipe's."""

FIXED: Mapping[str, Any] = {"stream": False, "encoding_format": "float", "echo": False}
"""Keys that are taken with this value alone, which is what is done anyway."""


@dataclass(frozen=True)
class OpenAiBatchSource:
    """Reads requests, an object a line. Whatever of one would have to be left out makes it a malformed record.

    Columns: ``custom_id``, ``url``, ``messages``, ``prompt`` or ``input``, and PARAMETERS.
    """

    lines: JsonlSource

    def read(self) -> Iterator[Record | Malformed]:
        """Every request as a record."""
        for record in self.lines.read():
            if isinstance(record, Record):
                found = _record(record.columns)
                record = found if isinstance(found, Record) else Malformed(found, record.columns)
            yield record

    def fingerprint(self) -> str:
        """sha256 of the files' bytes."""
        return self.lines.fingerprint()

    def count(self) -> int | None:
        """The number of lines."""
        return self.lines.count()

    def describe(self) -> str:
        """The files."""
        return self.lines.describe()


def _record(request: Mapping[str, Any]) -> Record | str:
    """A request as a row, or what is wrong with it."""
    name, url, body = (request.get(key) for key in ("custom_id", "url", "body"))
    where = f"the request {name!r}"
    if not isinstance(body, Mapping) or url not in PROMPTS:
        return f"{where} needs a body, and one of the urls {', '.join(PROMPTS)}; its url is {url!r}"
    prompt = PROMPTS[url]
    if body.get(prompt) is None:
        return f"{where} has no body.{prompt}"
    columns: dict[str, Any] = {"custom_id": name, "url": url, prompt: body[prompt], **dict.fromkeys(PARAMETERS)}
    for key, value in body.items():
        if key == prompt or key in NO_EFFECT or value is None or (key in FIXED and value == FIXED[key]):
            continue
        found = _parameter(key, value, body)
        if found is None:
            return f"{where}: body.{key}={value!r} is not supported"
        columns |= found
    return Record(columns)


def _parameter(key: str, value: Any, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """A key of a body as sampling parameters; ``None`` if there is nothing like it."""
    if key == "max_completion_tokens":
        return {"max_tokens": value}
    if key == "logprobs":  # true with a number of their own in a chat, that number in a completion
        return {"logprobs": body.get("top_logprobs") or 0} if value is True else {} if value is False else {key: value}
    if key == "top_logprobs":
        return {} if body.get("logprobs") else None
    if key == "logit_bias" and isinstance(value, Mapping):
        texts = all(isinstance(token, str) and token.isdecimal() for token in value)
        return {key: {int(token): bias for token, bias in value.items()}} if texts else None
    if key == "response_format" and isinstance(value, Mapping):
        return _form(value)
    return {key: value} if key in PARAMETERS else None


def _form(form: Mapping[str, Any]) -> dict[str, Any] | None:
    schema = form.get("json_schema")
    if form.get("type") == "text":
        return {}
    if form.get("type") == "json_object":
        return {"structured_outputs": {"json_object": True}}
    if form.get("type") == "json_schema" and isinstance(schema, Mapping) and "schema" in schema:
        return {"structured_outputs": {"json": schema["schema"]}}
    return None
