"""Where recipes and configuration groups are found: built in, in ``--config-dir`` and in ``./recipes``.

A folder of the user's own may hold whole groups (``recipe/NAME.yaml``, ``model/NAME.yaml``...), which Hydra reads as it
does any folder, or recipes alone (``NAME.yaml``), for which ``RecipeFolder`` shows the folder as the group ``recipe``.
The built-in tree comes first on the search path, and a recipe name that is found twice is an error, so that no file
ever hides another unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, nearest

BUILT_IN = Path(__file__).resolve().parent.parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A recipe file; ``origin`` is ``built in`` or its folder, ``summary`` its first comment line."""

    name: str
    path: Path
    origin: str
    summary: str


def user_folders(config_dir: str | None) -> list[Path]:
    """The existing folders of recipes besides the built-in one.

    Raises:
        ConfigError: ``--config-dir`` names no folder.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir={config_dir!r} is not a folder: it must be one that holds recipes")
    candidates = [Path(folder).resolve() for folder in (config_dir, "recipes") if folder and Path(folder).is_dir()]
    return [folder for folder in dict.fromkeys(candidates) if folder != BUILT_IN]


def find_recipes(folders: Sequence[Path]) -> list[Recipe]:
    """Every recipe, built-in ones first, sorted by name within a folder."""
    found = [_recipe(path, "built in") for path in sorted((BUILT_IN / "recipe").glob("*.yaml"))]
    for folder in folders:
        paths = [*folder.glob("*.yaml"), *(folder / "recipe").glob("*.yaml")]
        found += [_recipe(path, str(folder)) for path in sorted(paths, key=lambda path: path.stem)]
    return found


def check_recipes(chosen: Sequence[str], recipes: Sequence[Recipe]) -> None:
    """Refuse names that no recipe has, and names that two recipes have.

    Raises:
        ConfigError: the message names the recipe, and the nearest or both of them.
    """
    known = sorted({recipe.name for recipe in recipes})
    for name in chosen:
        paths = [str(recipe.path) for recipe in recipes if recipe.name == name]
        if not paths:
            raise ConfigError(
                f"there is no recipe {name!r}{nearest(name, known)}\nknown recipes: {', '.join(known)} "
                f"(own ones: ./recipes/NAME.yaml or --config-dir)"
            )
        if len(paths) > 1:
            raise ConfigError(f"the recipe {name!r} is there twice: {' and '.join(paths)}; rename one of them")


def describe(recipes: Sequence[Recipe]) -> str:
    """A line for each recipe: name, summary and, for the user's own, the folder."""
    width = max((len(recipe.name) for recipe in recipes), default=0)
    lines = []
    for recipe in recipes:
        origin = "" if recipe.origin == "built in" else f"  [{recipe.origin}]"
        lines.append(f"{recipe.name:<{width}}  {recipe.summary}{origin}")
    return "\n".join(lines)


def _recipe(path: Path, origin: str) -> Recipe:
    return Recipe(path.stem, path, origin, _summary(path))


def _summary(path: Path) -> str:
    """The first comment line that is no Hydra header (``# @package``), without the recipe's name at its beginning."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.lstrip("#").strip()
        if not line.startswith("#"):
            return ""
        if text and not text.startswith("@"):
            return text.removeprefix(f"{path.stem}:").strip()
    return ""


def register_folders(folders: Sequence[Path]) -> None:
    """Tell Hydra about the user's folders. Called once per process, before Hydra builds its search path."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.object_type import ObjectType
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigResult, ConfigSource
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from omegaconf import OmegaConf

    class RecipeFolder(ConfigSource):
        """The YAML files that lie directly in a folder, as the group ``recipe``."""

        @staticmethod
        def scheme() -> str:
            return "recipes"

        def _file(self, config_path: str) -> Path | None:
            group, _, name = config_path.rpartition("/")
            file = Path(self.path) / self._normalize_file_name(name)
            return file if group == "recipe" and file.is_file() else None

        def load_config(self, config_path: str) -> ConfigResult:
            file = self._file(config_path)
            if file is None:
                raise ConfigError(f"there is no recipe file {config_path}")
            text = file.read_text(encoding="utf-8")
            header: dict[str, Any] = self._get_header_dict(text)
            if header.get("package") is None:
                header["package"] = "_global_"  # a recipe is always laid over the whole configuration
            config = OmegaConf.load(file)
            return ConfigResult(provider=self.provider, path=str(file), config=config, header=header)

        def is_group(self, config_path: str) -> bool:
            return config_path == "recipe"

        def is_config(self, config_path: str) -> bool:
            return self._file(config_path) is not None

        def available(self) -> bool:
            return Path(self.path).is_dir()

        def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
            if config_path == "" and results_filter in (None, ObjectType.GROUP):
                return ["recipe"]
            if config_path == "recipe" and results_filter in (None, ObjectType.CONFIG):
                return sorted(path.stem for path in Path(self.path).glob("*.yaml"))
            return []

    class UserFolders(SearchPathPlugin):
        """Puts the user's folders behind the built-in tree."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in folders:
                search_path.append("recipes-alone", f"recipes://{folder}")
                search_path.append("recipes-folder", f"file://{folder}")

    Plugins.instance().register(RecipeFolder)
    Plugins.instance().register(UserFolders)
