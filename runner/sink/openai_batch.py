"""Records in the format in which OpenAI's batch API gives its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.record_json import from_json

BATCH_OUTPUT = "batch_output.jsonl"
BATCH_ERRORS = "batch_errors.jsonl"


@dataclass(frozen=True)
class BatchFormat:
    """Answers of a task (chat, generate or embed) by a model.

    ``created`` is 0 and ids are made of the row's, so that a run that was resumed leaves the same bytes.
    """

    task: str
    model: str

    def output(self, record: str) -> str:
        """A finished row's line."""
        row = from_json(record)
        response = {"status_code": 200, "request_id": f"req_{row['id']}", "body": self._body(row)}
        return _line(row["id"], response, None)

    def error(self, record: str) -> str:
        """The line of a row in error."""
        row = from_json(record)
        return _line(row["id"], None, {"code": "invalid_request", "message": row["error"]})

    def _body(self, row: Mapping[str, Any]) -> dict[str, Any]:
        prompt = row["prompt_tokens"]
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + row.get("output_tokens", 0)}
        if self.task == "embed":
            data = [{"object": "embedding", "index": 0, "embedding": row["output"]}]
            return {"object": "list", "data": data, "model": self.model, "usage": usage}
        usage["completion_tokens"] = row["output_tokens"]
        chat = self.task == "chat"
        head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{row['id']}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": self.model,
        }
        return {**head, "choices": self._choices(row, chat), "usage": usage}

    def _choices(self, row: Mapping[str, Any], chat: bool) -> list[dict[str, Any]]:
        several = isinstance(row["output"], list)
        texts = row["output"] if several else [row["output"]]
        reasons = row["finish_reason"] if several else [row["finish_reason"]]
        messages = row.get("message")
        messages = messages if several else [messages]
        choices = []
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            message = (messages or [None] * len(texts))[index]
            said = _message(text, message) if chat else {"text": text}
            logprobs = _logprobs(row, index if several else None)
            choices.append({"index": index, **said, "logprobs": logprobs, "finish_reason": reason})
        return choices


def _message(text: str, message: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was said; a message that was taken apart keeps its parts."""
    if message is None:
        return {"message": {"role": "assistant", "content": text}}
    return {"message": {name: value for name, value in message.items() if name != "errors"}}


def _logprobs(row: Mapping[str, Any], child: int | None) -> dict[str, Any] | None:
    """A completion's log-probabilities in the form of a chat's. Which token was chosen is known where the record has
    token ids (``task.keep_token_ids``); else the positions stand as in the record."""
    positions, tokens = row.get("logprobs"), row.get("token_ids")
    if positions is None:
        return None
    positions = positions if child is None else positions[child]
    if tokens is None:
        return {"content": None, "positions": positions}
    content = []
    for entries, token in zip(positions, tokens if child is None else tokens[child], strict=True):
        shown = [{"token": entry["token"], "logprob": entry["logprob"], "bytes": None} for entry in entries]
        chosen = next(shown[place] for place, entry in enumerate(entries) if entry["token_id"] == token)
        content.append({**chosen, "top_logprobs": shown})
    return {"content": content}


def _line(name: str | None, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> str:
    line = {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False)
