"""The user's recipe folders on Hydra's search path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

GROUP = "recipe"


class RecipeFolder(ConfigSource):
    """The YAML files that lie directly in a folder, as the group ``recipe``."""

    @staticmethod
    def scheme() -> str:
        """``recipes://FOLDER``."""
        return "recipes"

    def _file(self, config_path: str) -> Path | None:
        group, _, name = config_path.rpartition("/")
        file = Path(self.path) / self._normalize_file_name(name)
        return file if group == GROUP and file.is_file() else None

    def load_config(self, config_path: str) -> ConfigResult:
        """The recipe's file. It is laid over the whole configuration, with or without the header that says so."""
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"there is no recipe file {config_path} in {self.path}")
        header: dict[str, Any] = self._get_header_dict(file.read_text(encoding="utf-8"))
        if header.get("package") is None:
            header["package"] = "_global_"
        return ConfigResult(provider=self.provider, path=str(file), config=OmegaConf.load(file), header=header)

    def is_group(self, config_path: str) -> bool:
        """There is one group."""
        return config_path == GROUP

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        return self._file(config_path) is not None

    def available(self) -> bool:
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The group, or its recipes."""
        if config_path == "" and results_filter in (None, ObjectType.GROUP):
            return [GROUP]
        if config_path == GROUP and results_filter in (None, ObjectType.CONFIG):
            return sorted(path.stem for path in Path(self.path).glob("*.yaml"))
        return []


def register_folders(folders: Sequence[Path]) -> None:
    """Tell Hydra about the user's folders, before it builds its search path. They come behind the built-in tree."""

    class UserFolders(SearchPathPlugin):  # Hydra makes the instance itself, without arguments
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in folders:
                search_path.append("recipes-alone", f"recipes://{folder}")
                search_path.append("recipes-folder", f"file://{folder}")

    Plugins.instance().register(RecipeFolder)
    Plugins.instance().register(UserFolders)
