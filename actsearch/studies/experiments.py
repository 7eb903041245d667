"""experiment(): published comparisons of activations, re-run by one command each.

An experiment is a row of EXPERIMENTS (published.py). Its trainings are trials as of any
re-evaluation, so they resume, and a finished experiment only draws again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from actsearch.child_models.data.data import Data, DataError
from actsearch.child_models.data.labelled import Dataset, as_published
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.errors import UsageError
from actsearch.results.metrics import ACCURACY
from actsearch.results.records import Outcome, Trial
from actsearch.results.statistics import estimate
from actsearch.results.store import Store
from actsearch.results.tables import Row, to_csv
from actsearch.run import RUNS, Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import formula
from actsearch.search_space.parser import parse
from actsearch.searching.batch import train
from actsearch.searching.building import dataset_from
from actsearch.searching.machinery import Machinery
from actsearch.searching.run_log import logging_to
from actsearch.studies.claims import Course, NoPrediction
from actsearch.studies.published import CLAIMS, EXPERIMENTS, Experiment, ExperimentOptions

STAGE = "reevaluate"
OPERATORS = "guarded"
SEEDS = 3


@dataclass(frozen=True)
class Setting:
    """A child that all activations are put into."""

    name: str
    evaluator: Evaluator
    dataset: Dataset


@dataclass(frozen=True)
class Report:
    """What an experiment came to: its tables, its figures' files, and why the training ended."""

    results: list[Row]
    claims: list[Row]
    files: list[Path]
    reason: str


def run_experiment(config: ExperimentOptions, console: Console) -> Report:
    """Train what is missing, then write tables and figures of what is there."""
    from actsearch.results.figures.plots import plotly

    if config.children:
        raise UsageError(f"--children is for {CLAIMS}; {config.experiment} has its own network")
    plotly("graph_objects")  # before hours are spent on what it is to draw
    experiment = EXPERIMENTS[config.experiment]
    functions = _functions(experiment, config)
    settings = _settings(experiment, config)
    console.print(_plan(config, settings, len(functions)), highlight=False, soft_wrap=True)
    run = Run(Path(config.run) if config.run else RUNS / config.experiment)
    with run.locked():
        store = run.store()
        try:
            with logging_to(run.path / "run.log"):
                trials = _submit(store, functions, settings, range(_seeds(config)))
                evaluators = [setting.evaluator for setting in settings]
                title = f"{config.experiment} · {settings[0].evaluator.dataset.name}"
                reason = train(
                    run, store, trials.values(), evaluators, Machinery.of(config), title, console
                )
                outcomes = {key: store.outcome(trial) for key, trial in trials.items()}
        finally:
            store.close()
    return _report(experiment, run.path / "figures", functions, settings, outcomes, reason)


def _functions(experiment: Experiment, config: ExperimentOptions) -> dict[str, str]:
    """Canonical expressions by name; what the user adds goes by its formula."""
    functions = {
        name: str(canonical(parse(text), OPERATORS)) for name, text in experiment.functions.items()
    }
    for text in config.functions:
        expr = canonical(parse(text), OPERATORS)
        if str(expr) not in functions.values():
            functions[formula(expr)] = str(expr)
    return functions


def _settings(experiment: Experiment, config: ExperimentOptions) -> list[Setting]:
    """Raises UsageError for a data set that the children are not made for."""
    data = _dataset(config)
    if not isinstance(data, Dataset):
        raise UsageError(f"{config.experiment} needs images in memory, which {data.name} has not")
    dataset = as_published(data)
    batch = config.batch_size or 64
    steps = (config.epochs or experiment.epochs) * steps_an_epoch(dataset, batch)
    recipe = Recipe(
        steps=steps,
        batch_size=batch,
        lr=config.lr or experiment.lr,
        weight_decay=0.0,
        schedule="constant",
        optimiser="adam",
        loss="sigmoid",
        shuffle=experiment.shuffle,
    )
    settings = [
        Setting(
            name,
            Evaluator(
                dataset,
                child_from(child),
                recipe,
                operators=OPERATORS,
                kernels=config.kernels or "auto",
                cuda_graphs=config.cuda_graphs != "off",
                in_turns=Machinery.of(config).in_turns,
                test=True,
                inspect=True,
                track=max(1, steps // config.looks),
            ),
            dataset,
        )
        for name, child in experiment.children(config).items()
    ]
    try:
        settings[0].evaluator.build("relu(x)")
    except ValueError as error:
        raise UsageError(f"{config.experiment} does not fit {dataset.name}: {error}") from error
    return settings


def _seeds(config: ExperimentOptions) -> int:
    return config.seeds or SEEDS


def _plan(config: ExperimentOptions, settings: Sequence[Setting], functions: int) -> str:
    evaluator = settings[0].evaluator
    data = settings[0].dataset
    return (
        f"{config.experiment} on {data.name}: {len(data.x_train):,} examples to train on, "
        f"{len(data.x_val):,} to validate, {len(data.x_test):,} to test; "
        f"{len(settings) * functions * _seeds(config)} trainings of "
        f"{evaluator.recipe.steps:,} steps"
    )


def steps_an_epoch(dataset: Dataset, batch: int) -> int:
    """Counted as in the post: 844 of 54,000 images by 64. Its last batch of an epoch is smaller;
    here it is the first of the next epoch, so n epochs are some batches more than n rounds."""
    return math.ceil(len(dataset.x_train) / batch)


def _dataset(config: ExperimentOptions) -> Data:
    options: dict[str, Any] = {"root": config.data_root or "data", "download": config.download}
    if config.dataset:
        return dataset_from(config.dataset, **options)
    try:
        return dataset_from("mnist", **options)
    except DataError:
        return dataset_from("mnist5k")


Key = tuple[str, str, int]  # setting, function's name, seed


def _submit(
    store: Store, functions: Mapping[str, str], settings: Sequence[Setting], seeds: range
) -> dict[Key, Trial]:
    """A trial for each seed, setting and function; seed by seed, so that what was trained when it
    is stopped can be compared."""
    with store.transaction():
        for setting in settings:
            store.add_protocol(setting.evaluator.protocol_hash, setting.evaluator.description)
        return {
            (setting.name, name, seed): store.submit(
                STAGE,
                text,
                setting.evaluator.protocol_hash,
                seed,
                formula=formula(parse(text)),
                label=name,
            )
            for seed in seeds
            for setting in settings
            for name, text in functions.items()
        }


# -- what came of it


def _report(
    experiment: Experiment,
    folder: Path,
    functions: Mapping[str, str],
    settings: Sequence[Setting],
    outcomes: Mapping[Key, Outcome | None],
    reason: str,
) -> Report:
    from actsearch.results.figures.plots import write
    from actsearch.studies.course_figures import course_figures

    epoch = {s.name: _epoch(s) for s in settings}
    courses = [
        course(key, outcome, epoch[key[0]])
        for key, outcome in outcomes.items()
        if outcome is not None and outcome.status == "ok"
    ]
    results = [
        _row(setting.name, name, text, courses, outcomes)
        for setting in settings
        for name, text in functions.items()
    ]
    names = {s.name for s in settings}
    claims = [
        claim.row(courses)
        for claim in experiment.claims
        if isinstance(claim, NoPrediction) or claim.setting in names
    ]
    folder.mkdir(parents=True, exist_ok=True)
    tables = {folder / "results.csv": results, folder / "claims.csv": claims}
    for path, rows in tables.items():
        path.write_text(to_csv(rows))
    figures = write(
        course_figures(courses, list(functions)), folder, "experiment", experiment.title
    )
    return Report(results, claims, [*figures, *tables], reason)


def _epoch(setting: Setting) -> int:
    return steps_an_epoch(setting.dataset, setting.evaluator.recipe.batch_size)


def course(key: Key, outcome: Outcome, epoch: int) -> Course:
    """Of a trained outcome, in a setting with `epoch` steps an epoch."""
    setting, name, seed = key
    assert outcome.test_score is not None
    track = outcome.details.get("track", [])
    return Course(
        setting,
        name,
        seed,
        steps=tuple(step for step, _, _ in track),
        accuracy=tuple(score for _, score, _ in track),
        betas=tuple(tuple(betas) for _, _, betas in track),
        test_accuracy=outcome.test_score,
        seconds_an_epoch=(outcome.ms_per_step or 0.0) * epoch / 1e3,
    )


def _row(
    setting: str,
    name: str,
    text: str,
    courses: Sequence[Course],
    outcomes: Mapping[Key, Outcome | None],
) -> Row:
    mine = [c for c in courses if (c.setting, c.name) == (setting, name)]
    mean = estimate([c.test_accuracy for c in mine]) if mine else None
    ends = [b for c in mine if c.betas for b in c.betas[-1] if b is not None]
    seen = [o for (s, n, _), o in outcomes.items() if (s, n) == (setting, name) and o is not None]
    failed = next((f"{o.status}: {o.reason}" for o in seen if o.status != "ok"), "")
    return {
        "where": setting,
        "formula": formula(parse(text)),
        "name": name,
        "test accuracy": ACCURACY.cell(mean.mean if mean else None),
        "standard error": ACCURACY.cell(mean.standard_error if mean else None),
        "n": len(mine),
        "s/epoch": fmean(c.seconds_an_epoch for c in mine) if mine else None,
        "beta at the end": fmean(ends) if ends else None,
        "note": failed,
    }
