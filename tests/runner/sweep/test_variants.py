"""From a declaration to lists of overrides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import ConfigError
from runner.recipes import BUILT_IN, find_recipes
from runner.sweep.plan import interleaved
from runner.sweep.variants import all_overrides, expand, quoted


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(BUILT_IN), version_base="1.3"):
        compose("config", ["name=x"])
        yield GlobalHydra.instance().config_loader()
    GlobalHydra.instance().clear()


def words(loader: ConfigLoader, params: Any, arguments: list[str], cases: Any = ()) -> list[tuple[str, ...]]:
    return [variant.overrides for variant in expand(all_overrides(params, arguments, loader), cases)]


def test_a_grid_is_the_product_in_the_order_of_its_keys(loader: ConfigLoader) -> None:
    found = words(loader, {"a": "1,2"}, ["c=5", "b=x,y"])
    assert found == [("c=5", f"a={a}", f"b={b}") for a in (1, 2) for b in "xy"]


def test_the_command_line_wins_over_the_recipe(loader: ConfigLoader) -> None:
    assert words(loader, {"a": "1,2"}, ["a=3"]) == [("a=3",)]
    assert words(loader, {"a": "1,2", "b": [1, 2]}, ["a=3,4"]) == [("b=[1, 2]", "a=3"), ("b=[1, 2]", "a=4")]


def test_cases_are_linked_and_multiply_with_the_grid(loader: ConfigLoader) -> None:
    cases = [{"engine.max_num_seqs": 1, "+note": "slow, but sure"}, {"engine.max_num_seqs": 8}]
    found = expand(all_overrides(None, ["x=1,2"], loader), cases)
    assert [dict(variant.settings) for variant in found] == [
        {"engine.max_num_seqs": "1", "+note": '"slow, but sure"', "x": "1"},
        {"engine.max_num_seqs": "1", "+note": '"slow, but sure"', "x": "2"},
        {"engine.max_num_seqs": "8", "x": "1"},
        {"engine.max_num_seqs": "8", "x": "2"},
    ]
    assert [variant.number for variant in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("argument", ["a=1", "a=1,2", "+a=3"])
def test_a_case_and_the_outside_cannot_both_set_a_key(loader: ConfigLoader, argument: str) -> None:
    with pytest.raises(ConfigError, match="case 2 sets a, which is set outside too"):
        words(loader, None, [argument], [{"b": 1}, {"a": 1}])


def test_a_glob_runs_over_recipes(loader: ConfigLoader) -> None:
    known = {recipe.name for recipe in find_recipes([])}
    found = [overrides[0] for overrides in words(loader, None, ["+recipe=glob(*)"])]
    assert set(found) == {f"+recipe={name}" for name in known}
    assert words(loader, None, ["+recipe=glob(emb*)"]) == [("+recipe=embed",)]


@pytest.mark.parametrize("argument", ["output_root=a,b", "sweep.repeats=1,2", "tracking=none,mlflow", "resume=a,b"])
def test_what_is_one_for_the_sweep_cannot_be_swept(loader: ConfigLoader, argument: str) -> None:
    with pytest.raises(ConfigError, match="one for the whole sweep"):
        words(loader, None, [argument])


def test_a_range_without_points_needs_a_search(loader: ConfigLoader) -> None:
    with pytest.raises(ConfigError, match=r"no end of points.*sweep\.search"):
        words(loader, None, ["a=interval(0,1)"])
    with pytest.raises(ConfigError, match="matches nothing"):
        words(loader, None, ["+recipe=glob(nothing*)"])


def test_repeats_are_interleaved_behind_the_warm_ups(loader: ConfigLoader) -> None:
    variants = expand(all_overrides(None, ["a=A,B"], loader), ())
    order = [(v.settings["a"], repeat, warm) for v, repeat, warm in interleaved(variants, 2, 1)]
    assert order == [("A", 1, True), ("B", 1, True), ("A", 1, False), ("B", 1, False), ("A", 2, False), ("B", 2, False)]


def test_cases_hold_mappings(loader: ConfigLoader) -> None:
    case = {
        "sampling.logit_bias": {5: 1.5, 7: -2},
        "model.hf_overrides": {"rope": {"my key": [1, "x, y"]}, "$a:b": None},
    }
    (found,) = expand(all_overrides(None, [], loader), [case])
    read = OverridesParser.create().parse_overrides(list(found.overrides))
    assert {override.key_or_group: override.value() for override in read} == case
    for key in ("ü", "5", ""):
        with pytest.raises(ConfigError, match=r"case 2: a=.* cannot be written"):
            words(loader, None, [], [{"b": 1}, {"a": {key: 1}}])


def test_a_label_is_one_line(loader: ConfigLoader) -> None:
    (found,) = expand(all_overrides(None, [], loader), [{"sampling.stop": ["\n\n"]}])
    assert found.label == 'sampling.stop=["\\n\\n"]'


plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20)
values = st.recursive(
    plain | texts, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), t)
)


@settings(deadline=None)
@given(values)
def test_any_plain_value_comes_back_from_hydras_grammar(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"a={quoted(value)}"])
    assert not override.is_sweep_override()
    assert override.value() == value
