"""Whether a run's inputs and outputs are still what its manifest says, found out before anything runs."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from engine.text.template import ChatTemplateError
from runner.dataset import open_dataset
from runner.dataset.digests import ROW_DIGESTS, compare_rows, read_row_digests
from runner.errors import ConfigError
from runner.journal import FILE_NAME
from runner.load.rows import within_load
from runner.manifest import digest_file
from runner.model_digests import TENSORS, FileDigest, changed_tensors, chat_template_digest, digest_files, model_files
from runner.replay.original import Original

MOST_TENSORS = 5


@dataclass(frozen=True)
class Check:
    """One thing that was verified: ``same``, or ``findings`` that say what is not; ``note`` adds to either."""

    what: str
    findings: tuple[str, ...] = ()
    note: str = ""

    @property
    def same(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify_inputs(original: Original) -> list[Check]:
    """Dataset, model files and chat template against the manifest."""
    return [_dataset(original), _model(original), *_template(original)]


def verify_outputs(original: Original) -> Check:
    """The original's own output files against its manifest: what the replay is compared with."""
    findings = []
    for name, digest in (original.manifest.get("outputs") or {}).items():
        path = original.run_dir / name
        if not path.is_file():
            findings.append(f"{name} is gone")
        elif digest_file(path) != digest:
            findings.append(f"{name} was changed since{_changed_records(path)}")
    return Check("outputs of the original", tuple(findings))


def _dataset(original: Original) -> Check:
    about = original.manifest.get("dataset") or {}
    try:
        dataset = within_load(open_dataset(original.config.dataset), original.config.load)
        digest = f"sha256:{dataset.source.fingerprint()}"
    except (ConfigError, OSError) as error:
        return Check("dataset", (f"it cannot be opened: {error}",))
    what = f"dataset ({about.get('rows')} rows)"
    if digest == about.get("digest"):
        return Check(what)
    noted = original.run_dir / ROW_DIGESTS
    if not noted.is_file():
        return Check(what, (f"{about.get('source')} has other bytes; the run noted no digests of its rows",))
    try:
        now = dataset.iter_rows()
        if original.config.load.kind != "offline":  # a load that ended by the clock has not seen all rows
            now = islice(now, sum(1 for _ in read_row_digests(noted)))
        changes = compare_rows(read_row_digests(noted), now)
    except ValueError as error:
        return Check(what, (str(error),))
    if not any(changes.counts.values()):
        return Check(what, note=f"{about.get('source')} has other bytes, and the {changes.same:,} rows are the same")
    return Check(what, tuple(changes.lines()))


def _model(original: Original) -> Check:
    recorded = (original.manifest.get("model") or {}).get("files")
    try:
        files = model_files(original.config)
        if recorded is None and not files:
            return Check("model", note="it has no files")
        if recorded is None:
            return Check("model", note="the manifest has no digests of its files")
        found = digest_files(files, fresh=True)
    except (OSError, ValueError) as error:
        return Check("model", (f"it cannot be read: {error}",))
    names = dict.fromkeys((*recorded, *found))
    tensors = _json(original.run_dir / TENSORS)
    findings = [text for name in names if (text := _file(name, recorded.get(name), found.get(name), tensors))]
    return Check(f"model ({len(recorded)} file{'s' * (len(recorded) != 1)})", tuple(findings))


def _file(name: str, before: str | None, now: FileDigest | None, tensors: Mapping[str, Any]) -> str | None:
    if now is None:
        return f"{name} is gone"
    if before is None:
        return f"{name} is new"
    if before == now.digest:
        return None
    changed = changed_tensors(tensors[name], now.tensors) if name in tensors and now.tensors else []
    shown = ", ".join(changed[:MOST_TENSORS]) + (f" and {len(changed) - MOST_TENSORS} more" * (len(changed) > 5))
    return f"{name} has other bytes" + (f", in {shown}" if changed else "")


def _template(original: Original) -> Iterator[Check]:
    before = (original.manifest.get("model") or {}).get("chat_template")
    try:
        now = chat_template_digest(original.config)
    except ChatTemplateError as error:
        yield Check("chat template", (str(error),))
        return
    if before is not None or now is not None:
        yield Check("chat template", () if before == now else ("it is another text",))


def _changed_records(path: Path) -> str:
    """Which of the JSON lines differ from the run's journal, where there still is one."""
    journal = path.parent / FILE_NAME
    if path.suffix != ".jsonl" or not journal.is_file():
        return ""
    which = "IS NOT NULL" if path.name == "errors.jsonl" else "IS NULL"
    names = []
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database, path.open("rb") as lines:
            records = database.execute(f"SELECT id, record FROM rows WHERE error {which} ORDER BY idx")
            for record, line in zip_longest(records, lines):
                if record is None or line is None or _sha(record[1].encode()) != _sha(line.rstrip(b"\n")):
                    names.append(repr(record[0]) if record is not None else "a line too many")
    except sqlite3.Error:
        return ""
    return f", in {', '.join(names[:MOST_TENSORS])}{', …' if len(names) > MOST_TENSORS else ''}" if names else ""


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
