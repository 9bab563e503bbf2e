"""Conversations as ShareGPT's exports have them, read item by item however large the file is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from runner.dataset.files import digest, lines
from runner.dataset.jsonl import parse_line
from runner.dataset.rows import Malformed, Record

PIECE = 1 << 20  # characters read at a time
LARGEST = 1 << 26  # characters of one conversation
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "claude": "assistant", "system": "system",
}  # fmt: skip


@dataclass(frozen=True)
class ShareGptSource:
    """Reads a JSON array of conversations, or one a line. A file that breaks off gives what is whole.

    Columns: ``messages`` (everything to the last user turn), ``reference`` (the answer that followed, or null),
    ``first_user`` and ``first_answer`` (or null), ``turns``, and the item's own other columns.
    """

    files: tuple[Path, ...]

    def read(self) -> Iterator[Record | Malformed]:
        """Every conversation as a record."""
        for file in self.files:
            for where, item in _items(file):
                if isinstance(item, Malformed):
                    yield item
                    continue
                found = _record(where, item)
                known = item if isinstance(item, Mapping) else {}
                yield found if isinstance(found, Record) else Malformed(found, known)

    def fingerprint(self) -> str:
        """sha256 of the files' bytes."""
        return digest(self.files)

    def count(self) -> int | None:
        """Not known before the files are read."""
        return None

    def describe(self) -> str:
        """The files."""
        return ", ".join(map(str, self.files))


def _items(file: Path) -> Iterator[tuple[str, Any]]:
    """Where an item stands, and the item or what is wrong with it."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        start = stream.read(PIECE).lstrip()
        if start.startswith("["):
            yield from _array(file, stream, start[1:])
            return
    for number, line in lines(file):
        if line.strip():
            record = parse_line(file, number, line)
            yield f"{file} line {number}", record if isinstance(record, Malformed) else dict(record.columns)


def _array(file: Path, stream: TextIO, text: str) -> Iterator[tuple[str, Any]]:
    """The array's items. What is held is one item and a piece of the file."""
    decoder, number, size = json.JSONDecoder(), 0, PIECE
    while True:
        text = text.lstrip(" \t\r\n,")
        if text.startswith("]"):
            return
        where = f"{file} item {number}"
        try:
            if not text:
                raise json.JSONDecodeError("the array is not closed", text, 0)
            item, end = decoder.raw_decode(text)
        except (json.JSONDecodeError, RecursionError) as error:
            more = stream.read(size) if len(text) < LARGEST else ""
            if more:
                text, size = text + more, size * 2  # an item of many pieces is not decoded anew for each of them
                continue
            reason = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield where, Malformed(f"{where} is not JSON, and nothing after it can be read: {reason}")
            return
        yield where, item
        text, number, size = text[end:], number + 1, PIECE


def _record(where: str, item: Any) -> Record | str:
    """A conversation as a row, or what is wrong with it."""
    if not isinstance(item, Mapping):
        return f"{where} is not a JSON object but {type(item).__name__}"
    key = next((name for name in ("conversations", "messages", "conversation") if name in item), None)
    if key is None or not isinstance(item[key], list):
        return f"{where} has no list of turns under conversations or messages"
    turns: list[dict[str, str]] = []
    for number, turn in enumerate(item[key]):
        speaker = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
        if not isinstance(speaker, str) or not isinstance(text, str):
            return f"{where}, turn {number}: it must have texts under from and value, or role and content"
        if speaker not in ROLES:
            return f"{where}, turn {number}: the speaker {speaker!r} is not known (known: {', '.join(ROLES)})"
        turns.append({"role": ROLES[speaker], "content": text})
    return _columns(where, turns, {name: value for name, value in item.items() if name != key})


def _columns(where: str, turns: list[dict[str, str]], others: dict[str, Any]) -> Record | str:
    users = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    if not users:
        return f"{where} has no turn of a user"
    begun = [turn for turn in turns[: users[0]] if turn["role"] == "system"]  # an answer to nothing is left out
    return Record(
        {
            **others,
            "messages": begun + turns[users[0] : users[-1] + 1],
            "reference": _answer(turns, users[-1]),
            "first_user": turns[users[0]]["content"],
            "first_answer": _answer(turns, users[0]),
            "turns": len(turns),
        }
    )


def _answer(turns: list[dict[str, str]], user: int) -> str | None:
    """What the assistant said right after a user's turn."""
    following = turns[user + 1 : user + 2]
    return following[0]["content"] if following and following[0]["role"] == "assistant" else None
