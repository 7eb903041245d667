"""Options and settings: what each may be is said once, and told from Python and from the command
line alike; every name of a table and every option has a text."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import actsearch
from actsearch import cli
from actsearch.child_models.data.datasets import DATASETS
from actsearch.child_models.data.tasks import TASKS
from actsearch.child_models.networks.children import CHILDREN
from actsearch.child_models.recipe import LOSSES, OPTIMISERS, SCHEDULES
from actsearch.commands.line import read_command
from actsearch.commands.options import found, listed
from actsearch.commands.reevaluate import ReevaluateConfig
from actsearch.commands.search import SearchConfig
from actsearch.controller.ppo import PPOConfig
from actsearch.controller.strategies import STRATEGIES
from actsearch.controller.successive_halving import HalvingConfig
from actsearch.options import OneOf, Options, helps, options_of
from actsearch.search_space.export.exporters import EXPORTERS
from actsearch.search_space.space import SPACES
from actsearch.settings import PRESETS, SearchOptions, resolve

from .conftest import LIMIT

CONFIGS = [config for config, _ in cli.COMMANDS.values()]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"executor": "inlne"}, "unknown --executor 'inlne'; did you mean 'inline'?"),
        ({"cuda_graphs": "yes"}, "unknown --cuda-graphs 'yes'. Known: auto, on, off"),
        (
            {"children_per_worker": "many"},
            "--children-per-worker 'many' must be a whole number, such as 8, or auto",
        ),
        ({"precision": "fp16"}, "unknown --precision 'fp16'; did you mean 'bf16'?"),
        ({"schedule": "cosin"}, "unknown --schedule 'cosin'; did you mean 'cosine'?"),
        ({"kernels": "jit"}, "unknown --kernels 'jit'. Known: auto, generated, eager"),
        ({"recipe": "he2016"}, "unknown --recipe 'he2016'; did you mean 'he2016b'?"),
        ({"workers": "2"}, "--workers '2' must be a whole number"),
        ({"download": "no"}, "--download 'no' must be True or False"),
        ({"quiet": "no"}, "quiet 'no' must be True or False"),
    ],
)
def test_python_is_told_what_cannot_be_before_anything_starts(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    for start in (actsearch.search, actsearch.reevaluate):
        with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
            start(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", CONFIGS, ids=list(cli.COMMANDS))
def test_every_choice_is_refused_with_what_is_known(config: type[Options]) -> None:
    needed = {o.name: next(iter(o.kind.names), "x") for o in options_of(config) if o.required}
    for option in options_of(config):
        if isinstance(option.kind, OneOf):
            assert len(option.kind.names) >= 2
            wrong = ("none of them",) if option.several else "none of them"
            with pytest.raises(ValueError, match=f"Known: {option.kind.names[0]}"):
                config(**{**needed, option.name: wrong})


@pytest.mark.parametrize("config", CONFIGS, ids=list(cli.COMMANDS))
def test_every_option_has_a_sentence_and_names_what_it_takes(config: type[Options]) -> None:
    for name, text in helps(config).items():
        assert text.endswith((".", "]")), name
        assert "{" not in text, name


def test_help_names_every_row_of_a_table() -> None:
    said = helps(SearchOptions)
    for option, table in (
        ("strategy", STRATEGIES),
        ("child", CHILDREN),
        ("dataset", DATASETS),
        ("space", SPACES),
        ("preset", PRESETS),
        ("task", TASKS),
        ("loss", LOSSES),
        ("optimiser", OPTIMISERS),
        ("schedule", SCHEDULES),
    ):
        assert all(name in said[option] for name in table), option


def test_commands_settings_and_tables_of_names_need_no_torch() -> None:
    code = (
        "import sys, actsearch.cli\n"
        "from actsearch.options import helps\n"
        "for config, _ in actsearch.cli.COMMANDS.values(): helps(config)\n"
        "heavy = {'torch', 'numpy', 'pandas', 'ray', 'tyro', 'rich', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


# -- names and their options


def test_every_row_of_every_table_has_a_text() -> None:
    rows = list(listed())
    assert [r["name"] for r in rows] == [*STRATEGIES, *CHILDREN, *DATASETS, *TASKS, *EXPORTERS]
    assert all(len(row["text"].split()) > 1 for row in rows)


@pytest.mark.parametrize("name", [*STRATEGIES, "halving", *CHILDREN, *DATASETS])
def test_every_option_of_a_name_has_a_sentence(name: str) -> None:
    for option in found(name):
        assert option.text[:1].isalpha(), option.name
        assert option.text.endswith((".", ")")), option.name


@pytest.mark.parametrize(("name", "config"), [("ppo", PPOConfig), ("halving", HalvingConfig)])
def test_options_are_listed_with_their_defaults(
    name: str, config: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["options", name]) == 0
    told = capsys.readouterr().out
    for field in fields(config):
        assert any(
            line.startswith(f"{field.name}: ") and line.endswith(f" [{field.default}]")
            for line in told.splitlines()
        ), field.name


def test_a_name_without_options_and_one_that_is_unknown_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, begins in (("random", "--strategy random"), ("torch", "--to torch")):
        assert cli.main(["options", name]) == 0
        assert capsys.readouterr().out.startswith(f"{begins} takes no options: ")
    for name in ("pppo", "PPO"):
        assert cli.main(["options", name]) == 2
        assert f"unknown name {name!r}; did you mean 'ppo'?" in capsys.readouterr().err


# -- settings


@pytest.mark.parametrize(
    ("said", "stored", "expected"),
    [
        ({}, {}, 200),  # the preset quick
        ({}, {"preset": "paper"}, 10_000),
        ({}, {"steps": 7, "preset": "paper"}, 7),
        ({"steps": 9}, {"steps": 7}, 9),
        ({"preset": "paper"}, {"steps": 7}, 10_000),
        ({"recipe": "he2016a"}, {"steps": 7}, 64_000),
        ({"recipe": "he2016a", "steps": 9}, {"steps": 7}, 9),
        ({}, {"child": "resnet8", "recipe": "he2016a", "steps": 7}, 7),  # they are stored
        ({}, {"child": "convnext", "steps": 7}, 7),
        ({"child": "resnet8"}, {}, 200),
        ({"child": "convnext"}, {"preset": "paper"}, 200),
        ({"steps": None}, {"steps": None}, 200),
    ],
)
def test_what_is_said_goes_before_the_recipe_the_run_and_the_preset(
    said: dict[str, Any], stored: dict[str, Any], expected: int
) -> None:
    assert resolve(said, stored).steps == expected


@pytest.mark.parametrize(("said", "preset", "meant"), [
    ("ppo", "paper", "ppo:model=none"), ("ppo:lr=0.01", "paper", "ppo:lr=0.01,model=none"),
    ("ppo+halving:eta=2", "paper", "ppo:model=none+halving:eta=2"),
    ("ppo:model=gp", "paper", "ppo:model=gp"), ("random", "paper", "random"),
    ("ppo", "quick", "ppo"),
])  # fmt: skip
def test_the_controller_of_the_paper_has_no_model(said: str, preset: str, meant: str) -> None:
    assert resolve({"strategy": said, "preset": preset}).strategy == meant


def test_what_a_run_has_stored_beyond_settings_is_passed_over() -> None:
    stored = {"gone": 1, "run": "elsewhere"}
    assert resolve(vars(SearchConfig()), stored) == resolve({})


@pytest.mark.parametrize("said", [{}, {"preset": "paper"}, {"precision": "auto"}])
def test_a_run_keeps_the_precision_that_it_began_with(
    said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is what a machine computes in best, and a run may go on upon another."""
    monkeypatch.setattr("actsearch.settings._usual_precision", lambda: "bf16")
    assert resolve(said).precision == "bf16"
    assert resolve(said, {"precision": "fp32"}).precision == "fp32"
    assert resolve({"precision": "tf32"}, {"precision": "fp32"}).precision == "tf32"


@pytest.mark.parametrize(
    "words",
    [
        "--baselines gelu mish --steps 5 run --track wandb,mlflow",
        "--baselines gelu --track wandb run --steps 5 --baselines mish --track mlflow",
        "--track=wandb --baselines=gelu run --baselines=mish --track mlflow --steps 5",
        "--baselines gelu --child mlp:width=8 --track wandb,mlflow run --steps=5 --baselines mish",
    ],
)
def test_what_is_said_of_an_option_in_several_places_counts_together(words: str) -> None:
    config = read_command(["search", *words.split()], {"search": SearchConfig})
    assert (config.run, config.steps) == ("run", 5)
    assert (config.baselines, config.track) == (("gelu", "mish"), "wandb,mlflow")


def test_words_with_an_equals_sign_are_words_of_their_option() -> None:
    words = ["reevaluate", "run", "--child", "mlp:width=16", "mlp:width=8", "--seeds", "3"]
    config = read_command(words, {"reevaluate": ReevaluateConfig})
    assert (config.run, config.child) == ("run", ("mlp:width=16", "mlp:width=8"))
