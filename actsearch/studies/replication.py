"""Claims of activations under one protocol: a sweep of rates for each, then paired seeds, Holm.

docs/studies/registered.md says what counts as confirmed. Functions are tried as published, and once
more with slope and second moment matched, since a scale changes what a learning rate does. All
trainings are trials of a run, so a study resumes, and what is there can be read at any time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from actsearch.child_models.data.data import Data, DataError
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.objective import ObjectiveEvaluator
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.child_models.users_own import objective_from
from actsearch.errors import UsageError
from actsearch.results.metrics import Metric
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.results.tables import Row, to_csv
from actsearch.run import RUNS, Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.parser import parse
from actsearch.searching.batch import DONE, train
from actsearch.searching.building import AnyEvaluator, dataset_from
from actsearch.searching.machinery import Machinery
from actsearch.searching.run_log import logging_to
from actsearch.studies.judging import MATCHED, PUBLISHED, Cell, Setting, judged, verdicts
from actsearch.studies.matching import GUARDED, matched
from actsearch.studies.published import CLAIMS, ExperimentOptions
from actsearch.studies.replicated import (
    FIRST_SEED,
    FUNCTIONS,
    GELU,
    IMAGES,
    RATES,
    SEEDS,
    SITES,
    SWEEP_SEED,
    Site,
)


@dataclass(frozen=True)
class Form:
    """What is trained of each function by name, and how it came about."""

    name: str
    functions: Mapping[str, Expr]
    how: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """A row for each function in each child, a row of verdicts for each function, the files, and
    why the training ended."""

    results: list[Row]
    claims: list[Row]
    files: list[Path]
    reason: str


def run_claims(config: ExperimentOptions, console: Console) -> Report:
    """Train what is missing, then say what is there. Raises UsageError for options of other
    experiments and for data that a child is not made for."""
    _check(config)
    settings, forms = settings_of(config), forms_of(config)
    seeds = range(FIRST_SEED, FIRST_SEED + (config.seeds or SEEDS))
    console.print(_plan(settings, forms, seeds), highlight=False, soft_wrap=True)
    run = Run(Path(config.run) if config.run else RUNS / CLAIMS)
    with run.locked():
        store = run.store()
        try:
            with logging_to(run.path / "run.log"):
                reason = _train(run, store, config, settings, forms, seeds, console)
            cells = cells_of(store, forms, settings, seeds)
        finally:
            store.close()
    results, claims = judged(cells), verdicts(cells)
    folder = run.path / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    tables = {folder / "results.csv": results, folder / "claims.csv": claims}
    for path, rows in tables.items():
        path.write_text(to_csv(rows))
    return Report(results, claims, [*tables], reason)


def _check(config: ExperimentOptions) -> None:
    plain = ExperimentOptions(CLAIMS)
    for name in ("epochs", "sigmas", "width", "batch_size", "lr", "looks"):
        if getattr(config, name) != getattr(plain, name):
            raise UsageError(
                f"--{name.replace('_', '-')} is for mnist-mlp and mnist-cnn; {CLAIMS} trains each "
                "child by a recipe of its own"
            )


def _plan(settings: Sequence[Setting], forms: Sequence[Form], seeds: range) -> str:
    functions = len(forms[0].functions)
    each = functions * (len(RATES) + len(seeds))
    return (
        f"{functions} functions in {', '.join(setting.name for setting in settings)}: for each "
        f"{len(RATES)} learning rates, then {len(seeds)} paired seeds; "
        f"{' and '.join(form.name for form in forms)}; "
        f"{each * len(settings) * len(forms):,} trainings"
    )


# -- what is trained


def settings_of(config: ExperimentOptions) -> list[Setting]:
    """The children that are asked for, with their data; raises UsageError where those do not
    fit."""
    return [_setting(name, config) for name in config.children or SITES]


def _setting(name: str, config: ExperimentOptions) -> Setting:
    site = SITES[name]
    in_turns = Machinery.of(config).in_turns
    common: dict[str, Any] = {"operators": GUARDED, "test": True, "in_turns": in_turns}
    if site.objective:
        from actsearch.search_space.text import load

        make, metric = load(site.objective), Metric("error", "min")
        solvers = {
            rate: ObjectiveEvaluator(
                objective_from(make(site.lr * rate)), metric, site.steps, **common
            )
            for rate in RATES
        }
        return Setting(name, site, metric, site.lr, solvers)
    fields = {"steps": site.steps, **site.fields}
    recipe = Recipe(**{**(vars(RECIPES[site.recipe]) if site.recipe else {}), **fields})
    first = Evaluator(
        _data(name, site, config),
        child_from(site.child),
        recipe,
        kernels=config.kernels or "auto",
        cuda_graphs=config.cuda_graphs != "off",
        **common,
    )
    try:
        first.build("relu(x)")
    except ValueError as error:
        raise UsageError(f"{name} does not fit {first.dataset.name}: {error}") from error
    evaluators = {rate: first.with_recipe(lr=recipe.lr * rate) for rate in RATES}
    return Setting(name, site, first.metric, recipe.lr, evaluators)


def _data(name: str, site: Site, config: ExperimentOptions) -> Data:
    options: dict[str, Any] = {"root": config.data_root or "data", "download": config.download}
    if config.dataset and name in IMAGES:
        return dataset_from(config.dataset, **options)
    *before, last = site.data
    for choice in before:
        try:
            return dataset_from(choice, **options)
        except DataError:
            continue
    return dataset_from(last, **options)


def forms_of(config: ExperimentOptions) -> list[Form]:
    """The functions as published, those of the user by their formulas, and all of them matched."""
    texts = {**FUNCTIONS, **{formula(parse(text)): text for text in config.functions}}
    published = {name: canonical(parse(text), GUARDED) for name, text in texts.items()}
    found = {name: matched(expr, published[GELU]) for name, expr in published.items()}
    return [
        Form(PUBLISHED, published, dict.fromkeys(published, "")),
        Form(
            MATCHED,
            {name: canonical(expr, GUARDED) for name, (expr, _) in found.items()},
            {name: how for name, (_, how) in found.items()},
        ),
    ]


def _train(
    run: Run,
    store: Store,
    config: ExperimentOptions,
    settings: Sequence[Setting],
    forms: Sequence[Form],
    seeds: range,
    console: Console,
) -> str:
    """Form by form and child by child, so that what is there when it is stopped can be judged."""
    machinery = Machinery.of(config)
    for form in forms:
        for setting in settings:
            evaluators = [*setting.evaluators.values()]
            with store.transaction():
                for evaluator in evaluators:
                    store.add_protocol(evaluator.protocol_hash, evaluator.description)
            title = f"{setting.name} · {form.name}"
            sweep = _submit(
                store, "sweep", form, [(n, e) for e in evaluators for n in form.functions],
                [SWEEP_SEED],
            )  # fmt: skip
            reason = train(
                run, store, sweep, evaluators, machinery, f"{title} · learning rates", console
            )
            if reason == DONE:
                chosen = [
                    (name, setting.evaluators[_best_rate(store, setting, expr)])
                    for name, expr in form.functions.items()
                ]
                trials = _submit(store, "reevaluate", form, chosen, seeds)
                reason = train(run, store, trials, evaluators, machinery, title, console)
            if reason != DONE:
                return reason
    return DONE


def _submit(
    store: Store,
    kind: str,
    form: Form,
    chosen: Sequence[tuple[str, AnyEvaluator]],
    seeds: Iterable[int],
) -> list[Trial]:
    """Seed by seed, so that what is there can be compared."""
    with store.transaction():
        return [
            store.submit(
                kind, str(form.functions[name]), evaluator.protocol_hash, seed,
                formula=formula(form.functions[name]), label=name,
            )
            for seed in seeds
            for name, evaluator in chosen
        ]  # fmt: skip


def _best_rate(store: Store, setting: Setting, expr: Expr) -> float:
    """By the sweep's validation score; the usual one where nothing trained, or at equal scores."""

    def reward(rate: float) -> float:
        outcome = _outcome(store, "sweep", expr, setting.evaluators[rate], SWEEP_SEED)
        found = outcome.val_score if outcome is not None else None
        return -math.inf if found is None else setting.metric.reward(found)

    return max(setting.evaluators, key=reward)


def _outcome(
    store: Store, kind: str, expr: Expr, evaluator: AnyEvaluator, seed: int
) -> Outcome | None:
    trial = store.find(kind, str(expr), evaluator.protocol_hash, seed)
    return store.outcome(trial) if trial is not None else None


# -- what came of it


def cells_of(
    store: Store, forms: Sequence[Form], settings: Sequence[Setting], seeds: range
) -> list[Cell]:
    """Of each form, setting and function what the store has, which may be nothing."""
    return [
        _cell(store, form, setting, name, seeds)
        for form in forms
        for setting in settings
        for name in form.functions
    ]


def _cell(store: Store, form: Form, setting: Setting, name: str, seeds: range) -> Cell:
    expr = form.functions[name]
    rate = _best_rate(store, setting, expr)
    found = {s: _outcome(store, "reevaluate", expr, setting.evaluators[rate], s) for s in seeds}
    ended = {seed: outcome for seed, outcome in found.items() if outcome is not None}
    swept = (_outcome(store, "sweep", expr, e, SWEEP_SEED) for e in setting.evaluators.values())
    costs = [statistics.median(o.details["cost"]) for o in swept if o and o.details.get("cost")]
    return Cell(
        form.name, form.how[name], setting, name, expr, rate,
        {s: o.test_score for s, o in ended.items() if o.test_score is not None},
        next((f"{o.status}: {o.reason}" for o in ended.values() if o.status != "ok"), ""),
        statistics.median(costs) if costs else None,
    )  # fmt: skip
