"""The outputs of two runs, row by row: which differ, and where first."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from runner.journal import FILE_NAME
from runner.record_json import from_json

MOST_SHOWN = 5
BEFORE, AFTER = 24, 48  # characters of an excerpt, before and after the first one that differs
BATCH_ROWS = 2000
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Flip:
    """A row whose output is not the same.

    Args:
        id: the row's.
        character: place of the first character that differs, from 0; ``None`` for outputs that are no text.
        token: place of the first token that differs; ``None`` without token ids in both records.
        token_ids: the two token ids there, ``None`` where an output had ended.
        a, b: what stands around the difference.
    """

    id: str
    character: int | None
    token: int | None
    token_ids: tuple[int | None, int | None] | None
    a: str
    b: str


@dataclass
class OutputComparison:
    """Counts over the rows of two runs, matched by id.

    Args:
        rows: rows that finished in both.
        flips: rows whose output differs; ``shown`` holds the first of them.
        reasons: rows whose finish reason differs.
        prompts: rows whose prompt differs: its number of tokens, or its text where both records keep it.
        only_a, only_b: ids of rows that finished in one of them alone, the first few; ``alone`` counts them.
    """

    rows: int = 0
    flips: int = 0
    shown: list[Flip] = field(default_factory=list)
    reasons: int = 0
    prompts: int = 0
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    alone: tuple[int, int] = (0, 0)

    @property
    def same(self) -> bool:
        """Whether both runs have the same rows with the same outputs."""
        return not (self.flips or self.reasons or any(self.alone))


def compare_outputs(a: Path, b: Path, most_shown: int = MOST_SHOWN) -> OutputComparison | None:
    """Match the rows of two run folders by id and compare their outputs.

    Both are read side by side, and a row is held only until its partner comes: next to nothing where both ran the same
    dataset, which is kept in its order.

    Returns:
        ``None`` if the two have no kind of outputs file in common.

    Raises:
        ValueError: a file is damaged.
    """
    read = next((read for name, read in _READERS if (a / name).is_file() and (b / name).is_file()), None)
    if read is None:
        return None
    found = OutputComparison()
    waiting: tuple[dict[str, Record], dict[str, Record]] = ({}, {})
    sides: tuple[Iterator[Record], Iterator[Record]] = (read(a), read(b))
    while True:
        pair = tuple(next(side, None) for side in sides)
        if pair == (None, None):
            break
        for own, record in enumerate(pair):
            if record is None:
                continue
            name = str(record.get("id"))
            if name in waiting[1 - own]:
                other = waiting[1 - own].pop(name)
                _match(found, name, *((record, other) if own == 0 else (other, record)), most_shown)
            else:
                waiting[own][name] = record
    found.only_a, found.only_b = (list(side)[:most_shown] for side in waiting)
    found.alone = (len(waiting[0]), len(waiting[1]))
    return found


def _match(found: OutputComparison, name: str, a: Record, b: Record, most_shown: int) -> None:
    found.rows += 1
    found.reasons += a.get("finish_reason") != b.get("finish_reason")
    found.prompts += any(key in a and key in b and a[key] != b[key] for key in ("prompt_tokens", "prompt"))
    both = "token_ids" in a and "token_ids" in b
    if a.get("output") != b.get("output") or (both and a["token_ids"] != b["token_ids"]):
        found.flips += 1
        if len(found.shown) < most_shown:
            found.shown.append(_flip(name, a, b))


def _flip(name: str, a: Record, b: Record) -> Flip:
    number, (x, y) = _completion(a.get("output"), b.get("output"))
    where = agreement(x, y) if isinstance(x, str) and isinstance(y, str) else None
    token, ids = None, None
    if "token_ids" in a and "token_ids" in b:
        left, right = (_nth(side["token_ids"], number) for side in (a, b))
        token = agreement(left, right)
        ids = (_at(left, token), _at(right, token))
    return Flip(name, where, token, ids, _excerpt(x, where), _excerpt(y, where))


def agreement(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many entries or characters from the start are the same in both."""
    shorter = min(len(a), len(b))
    return next((place for place in range(shorter) if a[place] != b[place]), shorter)


def _completion(a: Any, b: Any) -> tuple[int | None, tuple[Any, Any]]:
    """With n > 1 the first completion that differs, and its number."""
    if isinstance(a, list) and isinstance(b, list) and any(isinstance(one, str) for one in a + b):
        number = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
        return number, (_at(a, number) or "", _at(b, number) or "")
    return None, (a, b)


def _nth(tokens: Sequence[Any], number: int | None) -> Sequence[int]:
    return tokens if number is None else (_at(tokens, number) or [])


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


def _excerpt(output: Any, where: int | None) -> str:
    if where is None:
        text = json.dumps(output, ensure_ascii=False, default=str)
        return text[: BEFORE + AFTER] + ("…" if len(text) > BEFORE + AFTER else "")
    start, end = max(where - BEFORE, 0), where + AFTER
    text = json.dumps(output[start:end], ensure_ascii=False)[1:-1]  # line breaks and the like stay visible
    return f"{'…' if start else ''}{text}{'…' if end < len(output) else ''}"


def _jsonl(folder: Path) -> Iterator[Record]:
    path = folder / "outputs.jsonl"
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield from_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is not valid JSON: {error}") from error


def _parquet(folder: Path) -> Iterator[Record]:
    with pq.ParquetFile(folder / "outputs.parquet") as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()


def _journal(folder: Path) -> Iterator[Record]:
    database = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    try:
        for (record,) in database.execute("SELECT record FROM rows WHERE error IS NULL ORDER BY idx"):
            yield from_json(record)
    except sqlite3.Error as error:
        raise ValueError(f"{folder / FILE_NAME} cannot be read: {error}") from error
    finally:
        database.close()


_READERS: tuple[tuple[str, Callable[[Path], Iterator[Record]]], ...] = (
    ("outputs.jsonl", _jsonl),
    ("outputs.parquet", _parquet),
    (FILE_NAME, _journal),
)
