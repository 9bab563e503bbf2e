"""What a sentence-transformers folder says beside the model's own config."""

from __future__ import annotations

import json

from engine.model.files import ModelFiles
from engine.params import ParameterError


def sentence_length(files: ModelFiles) -> int | None:
    """The sequence length that a sentence-transformers folder was trained for."""
    path = files.folder / "sentence_bert_config.json" if files.folder else None
    if path is None or not path.is_file():
        return None
    value = json.loads(path.read_text()).get("max_seq_length")
    return value if isinstance(value, int) else None


def pooling_mode(files: ModelFiles) -> str:
    """``cls`` or ``mean``, as a sentence-transformers folder declares it."""
    path = files.folder / "1_Pooling" / "config.json" if files.folder else None
    if path is None or not path.is_file():
        return "mean"
    modes = [key for key, on in json.loads(path.read_text()).items() if key.startswith("pooling_mode_") and on is True]
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    raise ParameterError("pooling mode", ", ".join(modes), "pooling_mode_mean_tokens or pooling_mode_cls_token")
