"""Every built-in recipe and group composes and validates; the user's own recipes are found; nothing litters."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from engine.args import EngineArgs
from engine.params import SamplingParams
from engine.peer_args import PeerArgs
from runner.composition import plain_data
from runner.config import Config, engine_args, parse
from runner.config.dataset import SyntheticDataset
from runner.config.keys import known_keys
from runner.config.peers import TransformersEngine, VllmEngine
from runner.config.sections import ModelSection, NativeEngine, NullEngine
from runner.recipes import BUILT_IN, find_recipes
from tests.runner.launch import (
    NULL,
    ROOT,
    SECONDS,
    articles,
    environment,
    only_run,
    records,
    refused,
    run,
    run_dirs,
    succeed,
)

RECIPES = sorted(path.stem for path in (BUILT_IN / "recipe").glob("*.yaml"))
DATA = {"summarize": ["dataset.path=."], "openai_batch": ["dataset.path=requests.jsonl"]}


@pytest.fixture
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(BUILT_IN), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def composed(*overrides: str) -> Config:
    return parse(plain_data(compose("config", list(overrides)), overrides))


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("recipe", RECIPES)
def test_built_in_recipes_compose(recipe: str) -> None:
    config = composed(f"+recipe={recipe}", *DATA.get(recipe, []))
    assert config.name == recipe
    if isinstance(config.engine, NativeEngine):
        assert engine_args(config).model == config.model.name


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("group", ["model", "engine", "sampling", "task", "dataset", "sink", "tracking", "load"])
def test_every_option_of_every_group_composes(group: str) -> None:
    for path in sorted((BUILT_IN / group).glob("*.yaml")):
        words = ["+recipe=demo", f"{group}={path.stem}"]
        data = compose("config", words)
        node = data[group] if group != "sink" else data["sinks"]
        assert node, path
        for key in node if group != "sink" else []:
            assert str(key) in known_keys()[group], f"{path}: {key}"


@pytest.mark.usefixtures("hydra")
def test_the_groups_list_every_key_with_its_default() -> None:
    sampling = yaml.safe_load((BUILT_IN / "sampling" / "default.yaml").read_text())
    assert SamplingParams(**sampling) == SamplingParams()
    assert sampling.keys() == {field.name for field in dataclasses.fields(SamplingParams) if field.init}
    sections = {
        "native": NativeEngine,
        "null_engine": NullEngine,
        "transformers": TransformersEngine,
        "vllm": VllmEngine,
    }
    for name, section in sections.items():
        listed = yaml.safe_load((BUILT_IN / "engine" / f"{name}.yaml").read_text())
        assert listed == section().model_dump()
    model = yaml.safe_load((BUILT_IN / "model" / "none.yaml").read_text())
    assert model.keys() == ModelSection.model_fields.keys()


def test_every_engine_argument_can_be_set() -> None:
    """A new field of EngineArgs needs a key in NativeEngine or ModelSection, and a line in the YAML of its group.
    Those that may only have vLLM's defaults need none."""
    keys = (NativeEngine.model_fields.keys() | ModelSection.model_fields.keys()) - {"kind", "name", "config"}
    fields, fixed = ({field.name for field in dataclasses.fields(kind)} for kind in (EngineArgs, PeerArgs))
    api = {"enable_prompt_embeds"}  # datasets hold no tensors
    assert keys | {"model", "runner"} == fields - fixed - api


@pytest.mark.usefixtures("hydra")
def test_each_ablation_changes_one_engine_argument() -> None:
    names = sorted(path.stem for path in (BUILT_IN / "ablation").glob("*.yaml"))
    plain = engine_args(composed("+recipe=ablation_gpu"))
    changed = {}
    for name in names:
        args = engine_args(composed(f"ablation={name}", "+recipe=ablation_gpu"))
        changed[name] = [f.name for f in dataclasses.fields(args) if getattr(args, f.name) != getattr(plain, f.name)]
    assert changed.pop("baseline") == []
    assert [len(fields) for fields in changed.values()] == [1] * len(changed), changed
    assert len({fields[0] for fields in changed.values()}) == len(changed)
    recipe = yaml.safe_load((BUILT_IN / "recipe" / "ablation_gpu.yaml").read_text())
    swept = recipe["hydra"]["sweeper"]["params"]["ablation"].replace(" ", "").split(",")
    assert sorted(swept) == names
    assert swept[0] == "baseline"


def test_a_recipe_may_sweep_by_itself_and_each_job_runs_alone_again(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "two.yaml").write_text(
        "# two: by itself\ndefaults: [demo]\nhydra: {mode: MULTIRUN, sweeper: {params: {sampling.max_tokens: '3,4'}}}\n"
    )
    articles(tmp_path, 2)
    words = ("+recipe=two", *NULL, "dataset.path=articles.jsonl")
    succeed(tmp_path, *words)
    folders = run_dirs(tmp_path, "two")
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in folders]
    assert sorted(config["sampling"]["max_tokens"] for config in configs) == [3, 4]
    command = json.loads((folders[0] / "manifest.json").read_text())["command"]
    assert command[-1] == "hydra.mode=RUN"
    succeed(tmp_path, *command[1:])
    (third,) = set(run_dirs(tmp_path, "two")).difference(folders)
    again = json.loads((third / "manifest.json").read_text())["command"]
    assert again == command


@pytest.mark.usefixtures("hydra")
def test_lengths_of_either_kind_can_be_set() -> None:
    words = ("+recipe=throughput", "dataset.input_length={kind: lognormal, mu: 3, sigma: 1}")
    for length in (composed(*words), composed("+recipe=throughput", "dataset.input_length.tokens=9")):
        assert isinstance(length.dataset, SyntheticDataset)
    assert composed(*words).dataset.input_length.kind == "lognormal"  # type: ignore[union-attr]


@pytest.mark.usefixtures("hydra")
def test_engine_args_merge_sections() -> None:
    args = engine_args(composed("+recipe=summarize_8b"))
    assert (args.model, args.max_model_len, args.dtype) == ("meta-llama/Llama-3.1-8B-Instruct", 8192, "bfloat16")
    own = engine_args(composed("+recipe=demo", "engine.max_model_len=null", "model.max_model_len=512", "engine.seed=3"))
    assert (own.max_model_len, own.seed, own.runner) == (512, 3, "generate")
    assert engine_args(composed("+recipe=embed")).runner == "pooling"


def test_list_has_a_line_for_every_recipe(tmp_path: Path) -> None:
    lines = succeed(tmp_path, "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == RECIPES
    assert all(len(line.split()) > 3 for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_own_recipes_from_both_places_and_stacked(tmp_path: Path) -> None:
    articles(tmp_path, 3)
    for folder, name, text in (
        ("recipes", "mine", "# mine: of my own\ndataset: {limit: 2}\nsampling: {max_tokens: 5}\n"),
        ("recipes/recipe", "nested", "# @package _global_\n# nested: deeper\nsampling: {max_tokens: 6}\n"),
        ("shared", "theirs", "# theirs: of a colleague\nsampling: {max_tokens: 7}\n"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.yaml").write_text(text)
    listed = succeed(tmp_path, "list", "--config-dir", "shared").stdout
    assert all(part in listed for part in ("mine", "of my own", "nested", "theirs", "of a colleague", "shared]"))
    words = (*NULL, "dataset.path=articles.jsonl", "--config-dir", "shared")
    own = yaml.safe_load((BUILT_IN / "recipe" / "demo.yaml").read_text())["sampling"]["max_tokens"]
    for stack, tokens in (("[demo,mine]", 5), ("[mine,demo]", own), ("[demo,mine,nested]", 6), ("[demo,theirs]", 7)):
        shown = succeed(tmp_path, f"+recipe={stack}", *words, "--cfg", "job").stdout
        assert yaml.safe_load(shown)["sampling"]["max_tokens"] == tokens, stack
    succeed(tmp_path, "+recipe=[demo,mine]", *words)
    assert len(records(only_run(tmp_path, "demo+mine") / "outputs.jsonl")) == 2
    (tmp_path / "shared" / "demo.yaml").write_text("sampling: {max_tokens: 1}\n")
    assert "twice" in refused(tmp_path, "+recipe=demo", *words)


def test_sweep_runs_every_combination_in_a_folder_of_its_own(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    succeed(tmp_path, "-m", "+recipe=demo", *NULL, "dataset.path=articles.jsonl", "sampling.max_tokens=3,4")
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in run_dirs(tmp_path)]
    assert sorted(config["sampling"]["max_tokens"] for config in configs) == [3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"articles.jsonl", "outputs"}


def test_one_bad_job_of_a_sweep_does_not_stop_the_others(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    result = run(tmp_path, "-m", "+recipe=demo", *NULL, "dataset.path=articles.jsonl", "sampling.max_tokens=-1,4")
    assert result.returncode == 2
    assert "sampling.max_tokens=-1" in result.stderr
    assert len(records(only_run(tmp_path) / "outputs.jsonl")) == 2


INSPECTIONS: list[list[str]] = [
    ["--help"],
    ["list"],
    ["+recipe=demo", "--cfg", "job", "--resolve"],
    ["+recipe=demo", "--cfg", "job", "-p", "engine"],
    ["+recipe=demo", "--info", "defaults-tree"],
    ["+recipe=dmo"],
    ["+recipe=demo", "sampling.top_p=2"],
]


@pytest.mark.parametrize("words", INSPECTIONS, ids=" ".join)
def test_inspection_imports_neither_torch_nor_mlflow(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import json, sys\nfrom runner.cli import main\ncode = main(json.loads(sys.argv[1]))\n"
        "heavy = {'torch', 'mlflow', 'transformers', 'datasets', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "print(json.dumps([code, sorted(heavy)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    answer: list[Any] = json.loads(result.stdout.splitlines()[-1])
    assert answer == [2 if "dmo" in words[0] or "top_p" in words[-1] else 0, []]
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_commands_and_groups(tmp_path: Path) -> None:
    text = succeed(tmp_path, "--help").stdout
    assert all(part in text for part in ("runner list", "runner report PATH", "recipe: ", "demo", "temperature"))


def test_summaries_are_one_line(tmp_path: Path) -> None:
    assert all(recipe.summary and "\n" not in recipe.summary for recipe in find_recipes([]))


PAGES = ("load.md", "datasets.md")
COMMANDS = [
    line.partition("  #")[0].strip()
    for page in PAGES
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    if line.startswith("runner +") or line.startswith("runner -m")
]


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_docs_are_whole_configurations(command: str) -> None:
    """Each is checked as a run would be before it starts; of a sweep the first job."""
    words = [word for word in shlex.split(command)[1:] if word != "-m"]
    swept = [word.partition(",")[0] if "-m" in command else word for word in words]
    assert composed(*swept).name == command.partition("+recipe=")[2].split()[0]


@pytest.mark.usefixtures("hydra")
def test_a_recipes_load_can_be_another_kind() -> None:
    assert composed("+recipe=load_demo", "load=bursty", "load.burstiness=0.2").load.kind == "bursty"
    assert composed("+recipe=load_demo", "load=concurrency", "~load.rate", "load.users=2").load.kind == "concurrency"
