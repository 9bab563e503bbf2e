"""Digests of a model's files, and of the tensors in them, so that a replay can name what is no longer the same."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.model.cache import cache_folder
from engine.model.files import ModelFiles, resolve_model
from engine.text.template import read_template
from runner.config import Config
from runner.config.sections import NullEngine
from runner.sink.atomic import replaced

TENSORS = "tensors.json"  # in the run folder: each weight file's tensors with their digests
METADATA = "(metadata)"  # the bytes before the first tensor: names, shapes, and in GGUF configuration and tokenizer
HEX_DIGITS = 32  # of a tensor's sha256
PIECE = 1 << 22  # bytes read at a time
THREADS = 4


@dataclass(frozen=True)
class FileDigest:
    """``digest`` is ``sha256:HEX`` of all bytes; ``tensors`` has shorter ones of each tensor, none for other files."""

    digest: str
    tensors: Mapping[str, str]


def model_files(config: Config) -> dict[str, Path]:
    """The files that a configuration's model and tokenizer are read from; empty where nothing is read.

    Raises:
        ModelNotFoundError: they are not there.
    """
    model = config.model
    if isinstance(config.engine, NullEngine) or model.config is not None:
        return {}
    files = resolve_model(model.name, model.revision, model.load_format).named()
    if model.tokenizer is not None:
        folder = Path(model.tokenizer).expanduser()
        other = (
            ModelFiles(model.tokenizer, folder, None, ())
            if folder.is_dir()
            else resolve_model(model.tokenizer, load_format="dummy")
        )
        files |= {f"tokenizer/{name}": path for name, path in other.named().items()}
    return files


def chat_template_digest(config: Config) -> str | None:
    """Of the template that the configuration names in place of the model's own, which is one of the model's files."""
    chosen = getattr(config.task, "chat_template", None) or config.model.chat_template
    return None if chosen is None else "sha256:" + hashlib.sha256(read_template(chosen).encode()).hexdigest()


def digest_files(files: Mapping[str, Path], *, fresh: bool) -> dict[str, FileDigest]:
    """Digests of files by name.

    Args:
        files: name to path.
        fresh: read every byte now; otherwise what was noted for the same path, size and modification time counts.

    Raises:
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda path: _digest(path.resolve(), fresh), files.values())
        return dict(zip(files, found, strict=True))


def changed_tensors(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The tensors whose bytes differ, in the order of the file; those that are gone or new among them."""
    return [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]


def _digest(path: Path, fresh: bool) -> FileDigest:
    status = path.stat()
    key = hashlib.sha256(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "tensor-digests" / f"{key}.json"
    if not fresh and (known := _read_note(note)) is not None:
        return known
    found = _read_file(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with replaced(note) as temporary:
            temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written costs time, never a run
    return found


def _read_note(note: Path) -> FileDigest | None:
    try:
        return FileDigest(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _read_file(path: Path) -> FileDigest:
    """One pass over the bytes for the file's digest and those of its tensors."""
    whole, tensors = hashlib.sha256(), {}
    with path.open("rb") as file:
        for name, start, end in _layout(path):
            _update(file, start - file.tell(), (whole,))  # padding between tensors
            own = hashlib.sha256()
            _update(file, end - start, (whole, own))
            tensors[name] = own.hexdigest()[:HEX_DIGITS]
        _update(file, path.stat().st_size - file.tell(), (whole,))
    return FileDigest("sha256:" + whole.hexdigest(), tensors)


def _update(file: Any, count: int, digests: tuple[Any, ...]) -> None:
    while count > 0 and (piece := file.read(min(count, PIECE))):
        count -= len(piece)
        for digest in digests:
            digest.update(piece)


def _layout(path: Path) -> list[tuple[str, int, int]]:
    """Where the metadata and the tensors of a weight file lie, in the order of their bytes; empty for other files and
    for a damaged head, which the file's own digest shows."""
    try:
        if path.suffix == ".safetensors":
            spans = _safetensors(path)
        elif path.suffix == ".gguf":
            spans = _gguf(path)
        else:
            return []
    except (ValueError, KeyError, IndexError, TypeError, struct.error):
        return []
    spans.sort(key=lambda span: span[1])
    first = spans[0][1] if spans else path.stat().st_size
    return [(METADATA, 0, first), *spans]


def _safetensors(path: Path) -> list[tuple[str, int, int]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    tensors = ((name, entry["data_offsets"]) for name, entry in head.items() if name != "__metadata__")
    return [(name, 8 + length + start, 8 + length + end) for name, (start, end) in tensors]


def _gguf(path: Path) -> list[tuple[str, int, int]]:
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return [(str(one.name), int(one.data_offset), int(one.data_offset + one.n_bytes)) for one in tensors]
