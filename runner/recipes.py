"""Where recipes and configuration groups are found: built in, in ``--config-dir`` and in ``./recipes``.

A folder of the user's own may hold whole groups (``recipe/NAME.yaml``, ``model/NAME.yaml``...), which Hydra reads as it
does any folder, or recipes alone (``NAME.yaml``), which ``runner.recipe_source`` shows as the
group ``recipe``.
The built-in tree comes first on the search path, and a recipe name that is found twice is an error, so that no file
ever hides another unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        ConfigError: the message names the recipe, and the nearest or both of them; or its file is no UTF-8.
    """
    known = sorted({recipe.name for recipe in recipes})
    for name in chosen:
        paths = [str(recipe.path) for recipe in recipes if recipe.name == name]
        if not paths:
            stem = name.rpartition("/")[2].removesuffix(".yaml")
            raise ConfigError(
                f"there is no recipe {name!r}{nearest(stem, known)}\nknown recipes: {', '.join(known)} "
                f"(own ones: ./recipes/NAME.yaml or --config-dir)"
            )
        if len(paths) > 1:
            raise ConfigError(f"the recipe {name!r} is there twice: {' and '.join(paths)}; rename one of them")
        try:
            Path(paths[0]).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"the recipe {paths[0]} cannot be read: {error}") from None


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
