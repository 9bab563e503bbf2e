"""transformers tokenizers from disk; one inside a GGUF file is converted once and kept in the cache folder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.model.cache import cache_folder, file_digest, publish_folder


def from_folder(path: Path) -> Any:
    """The transformers tokenizer in a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path))


def from_gguf(path: Path) -> Any:
    """The transformers tokenizer that a GGUF file describes.

    Converting it takes seconds and imports torch, loading the converted folder neither.
    """
    converted = cache_folder() / "tokenizers" / f"{file_digest(path)[:32]}-transformers-{version('transformers')}"
    if not (converted / "tokenizer_config.json").is_file():
        try:
            publish_folder(converted, lambda folder: _convert(path).save_pretrained(str(folder)))
        except OSError:
            return _convert(path)  # the cache cannot be written: slower, not wrong
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(converted))


def _convert(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
