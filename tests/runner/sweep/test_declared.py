"""The sweeps that recipes and docs/sweeps.md declare: every job of them composes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from runner.recipes import BUILT_IN
from runner.sweep.compose import Composer, Prepared
from runner.sweep.objective import objective_of
from runner.sweep.variants import all_overrides, expand
from tests.runner.launch import ROOT

PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


def documented() -> list[list[str]]:
    """The words behind ``runner`` of every command that runs something."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["runner"] and words[1] != "report":
                found.append(words[1:])
    return found


@pytest.fixture
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(BUILT_IN), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def composer_of(overrides: Sequence[str]) -> Composer:
    inner = GlobalHydra.instance().hydra
    assert inner is not None
    base = inner.compose_config("config", list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return Composer(inner.config_loader, base)


def prepared(words: Sequence[str], most: int | None = None) -> list[Prepared]:
    """The variants of a sweep, or the first of them."""
    overrides = [word for word in words if not word.startswith("-")]
    composer = composer_of(overrides)
    section = composer.section()
    found = all_overrides(composer.plain("hydra.sweeper.params"), overrides, composer.loader)
    return [composer.prepare(variant) for variant in expand(found, section.cases)[:most]]


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_documented_sweeps_compose(words: list[str]) -> None:
    if any(word.startswith("sweep.search") for word in words):
        section = composer_of([word for word in words if not word.startswith("-")]).section()
        assert objective_of(section.search.model_dump()).bounds
    found = prepared(words, most=6)
    assert len(found) >= 2
    assert [one.error for one in found] == [None] * len(found)
    assert len({one.identity for one in found}) == len(found)


@pytest.mark.usefixtures("hydra")
def test_the_ablation_is_a_sweep_of_as_many_configurations_as_there_are_ablations() -> None:
    found = prepared(["+recipe=ablation_gpu"])
    count = len(list((BUILT_IN / "ablation").glob("*.yaml")))
    assert [one.error for one in found] == [None] * count
    assert len({one.identity for one in found}) == count
    assert {one.name for one in found} == {"ablation_gpu"}
    assert all(one.wants_gpu for one in found)


@pytest.mark.usefixtures("hydra")
def test_the_documented_recipe_composes() -> None:
    """Its cases as they stand on the page, over the recipe that it names."""
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) if "batch_sizes" in block]
    recipe = yaml.safe_load(text)
    composer = composer_of([f"+recipe={recipe['defaults'][0]}"])
    section = recipe["sweep"]
    variants = expand(all_overrides(None, [f"+recipe={recipe['defaults'][0]}"], composer.loader), section["cases"])
    assert [composer.prepare(variant).error for variant in variants] == [None, None]
    assert (section["repeats"], section["warmup"]) == (5, 1)


def test_the_page_names_what_it_runs() -> None:
    assert len(documented()) >= 5
