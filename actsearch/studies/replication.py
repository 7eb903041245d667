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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
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
from actsearch.results.statistics import LEVEL, differences, estimate, holm, interval
from actsearch.results.store import Store
from actsearch.results.tables import Row, to_csv
from actsearch.run import RUNS, Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.expression import Expr, constant, formula, substitute
from actsearch.search_space.operators import OPERATORS
from actsearch.search_space.parser import parse
from actsearch.searching.batch import DONE, train
from actsearch.searching.building import AnyEvaluator, dataset_from
from actsearch.searching.machinery import Machinery
from actsearch.searching.run_log import logging_to
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

GUARDED = "guarded"
PUBLISHED, MATCHED = "as published", "matched"
LARGEST_SCALE = 8.0  # of an input, and its inverse the smallest
NODES = 120  # of the quadrature over a standard normal
SMALLEST_SLOPE = 1e-3  # below it a slope cannot be matched by a scale


@dataclass(frozen=True)
class Setting:
    """A child, what its scores are, its usual learning rate, and an evaluator for each share of
    that, 1 first."""

    name: str
    site: Site
    metric: Metric
    lr: float
    evaluators: Mapping[float, AnyEvaluator]


@dataclass(frozen=True)
class Form:
    """What is trained of each function by name, and how it came about."""

    name: str
    functions: Mapping[str, Expr]
    how: Mapping[str, str]


@dataclass(frozen=True)
class Cell:
    """A function in a setting: the share of the usual rate that its sweep chose, the test scores by
    seed."""

    form: str
    how: str  # it was matched
    setting: Setting
    name: str
    expr: Expr
    rate: float  # over the usual one
    scores: Mapping[int, float]
    failed: str  # the first failure, or ""
    cost: float | None  # of a step, as a multiple of ReLU's


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


def matched(f: Expr, to: Expr) -> tuple[Expr, str]:
    """a f(b x) with the slope at 0 and the second moment under a standard normal of `to`, betas at
    their initial values, and how it was found. Where f has no slope at 0, or a scale of its input
    is one of its output, or no b from 1/8 to 8 will do, b is 1 and the second moment alone is
    matched. A slope at a kink is the mean of both sides'. Of several b the nearest to 1 is taken.
    """
    from scipy.optimize import root_scalar

    slope, moment = _slope(f), _moment(f, 1.0)
    aim_slope, aim_moment = _slope(to), _moment(to, 1.0)

    def off(log_b: float) -> float:
        b = math.exp(log_b)
        a = aim_slope / (b * slope)
        return math.log(a * a * _moment(f, b) / aim_moment)

    if abs(slope) > SMALLEST_SLOPE:
        edges = np.linspace(-1.0, 1.0, 201) * math.log(LARGEST_SCALE)
        values = np.array([off(x) for x in edges])
        turns = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
        roots = [root_scalar(off, bracket=edges[i : i + 2]).root for i in turns]
        roots += [float(edge) for edge, value in zip(edges, values, strict=True) if value == 0]
        if roots and np.ptp(values) > 1e-6:
            b = math.exp(min(roots, key=abs))
            a = aim_slope / (b * slope)
            return _scaled(f, a, b), "slope and second moment"
    return _scaled(f, math.sqrt(aim_moment / moment), 1.0), "second moment"


def _scaled(f: Expr, a: float, b: float) -> Expr:
    a, b = (float(f"{value:.6g}") for value in (a, b))
    inner = substitute(f, _times(b, parse("x")))
    return _times(a, inner)


def _times(factor: float, expr: Expr) -> Expr:
    return expr if factor == 1.0 else Expr(OPERATORS["mul"], (constant(factor), expr))


@lru_cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for a mean over a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum()


def _moment(f: Expr, b: float) -> float:
    nodes, weights = _quadrature()
    return float(weights @ _values(f, b * nodes) ** 2)


def _slope(f: Expr) -> float:
    h = 1e-4
    below, above = _values(f, np.array([-h, h]))
    return float((above - below) / (2 * h))


def _values(f: Expr, points: np.ndarray) -> np.ndarray:
    import torch

    [found] = curves([f], torch.from_numpy(points), operators=GUARDED)
    return found.value[0, 0].numpy()


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


@dataclass(frozen=True)
class Judgement:
    """Of a function against its child's rival: the mean paired difference, better where it is above
    0, its interval, Holm's p over all functions in all children of the form, and the verdict."""

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str


def judge(cells: Sequence[Cell]) -> dict[int, Judgement]:
    """Of the cells of one form, by their place. A function with a failed seed is not confirmed, and
    counts in Holm's correction with a p of 1."""
    rivals = {c.setting.name: c for c in cells if c.name == c.setting.site.rival}
    paired = {
        i: _paired(c, rivals[c.setting.name])
        for i, c in enumerate(cells)
        if c.name != c.setting.site.rival and (c.scores or c.failed)
    }
    corrected = dict(
        zip(
            paired,
            holm([1.0 if cells[i].failed else _p(d) for i, d in paired.items()]),
            strict=True,
        )
    )
    found: dict[int, Judgement] = {}
    for i, cell in enumerate(cells):
        if cell.name == cell.setting.site.rival:
            found[i] = Judgement(None, None, None, None, "rival")
        elif i not in paired:
            found[i] = Judgement(None, None, None, None, "not trained")
        elif cell.failed:
            found[i] = Judgement(None, None, None, corrected[i], "failed")
        else:
            found[i] = _judged(paired[i], corrected[i])
    return found


def _judged(paired: Sequence[float], p: float) -> Judgement:
    between = interval(paired)
    if between is None:
        mean = estimate(paired).mean if paired else None
        return Judgement(mean, None, None, p, "open")
    mean = estimate(paired).mean
    verdict = "open"
    if p < LEVEL and mean > 0:
        verdict = "confirmed"
    elif between.high < 0:
        verdict = "refuted"
    return Judgement(mean, between.low, between.high, p, verdict)


def _paired(cell: Cell, rival: Cell) -> list[float]:
    reward = cell.setting.metric.reward
    mine, other = ({s: reward(v) for s, v in c.scores.items()} for c in (cell, rival))
    return differences(mine, other)


def _p(paired: Sequence[float]) -> float:
    """Of Student's paired test, two-sided; 1 where there is nothing to test."""
    from scipy.stats import ttest_1samp

    if len(paired) < 2 or np.ptp(paired) == 0:
        return 1.0
    found: Any = ttest_1samp(paired, 0.0)
    return float(found.pvalue)


def judged(cells: Sequence[Cell]) -> list[Row]:
    """A row for each function in each child that has trained, the best mean first."""
    rows: list[Row] = []
    for mine in _by_form(cells).values():
        found = judge(mine)
        order = sorted(range(len(mine)), key=lambda i: _place(mine[i]))
        rows += [_row(mine[i], found[i]) for i in order if mine[i].scores or mine[i].failed]
    return rows


def _by_form(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    return {form: [c for c in cells if c.form == form] for form in (PUBLISHED, MATCHED)}


def _place(cell: Cell) -> tuple[int, bool, float]:
    mean = estimate([*cell.scores.values()]).mean if cell.scores else math.nan
    failed = bool(cell.failed) or not cell.scores
    return [*SITES].index(cell.setting.name), failed, -cell.setting.metric.reward(mean)


def _row(cell: Cell, found: Judgement) -> Row:
    metric = cell.setting.metric
    return {
        "form": cell.form + (f": {cell.how}" if cell.how else ""),
        "child": cell.setting.name,
        "name": cell.name,
        "formula": formula(cell.expr),
        "lr": f"{cell.setting.lr * cell.rate:g}",
        "score": metric.test_name,
        "mean": metric.cell(estimate([*cell.scores.values()]).mean if cell.scores else None),
        "better than": cell.setting.site.rival if found.verdict != "rival" else "",
        "by": metric.cell(found.difference, signed=True),
        "from": metric.cell(found.low, signed=True),
        "to": metric.cell(found.high, signed=True),
        "p, Holm": None if found.p is None else f"{found.p:.2g}",
        "n": len(cell.scores),
        "verdict": found.verdict,
        "x relu": None if cell.cost is None else f"{cell.cost:.2f}",
        "note": cell.failed,
    }


def verdicts(cells: Sequence[Cell]) -> list[Row]:
    """A row for each function: its verdict in each child. A claim that is confirmed as published
    and not when matched is one of scale."""
    found = {
        (form, mine[i].name, mine[i].setting.name): judgement.verdict
        for form, mine in _by_form(cells).items()
        for i, judgement in judge(mine).items()
    }
    said: dict[str, dict[str, str]] = {}
    for (form, name, child), verdict in found.items():
        if form == MATCHED:
            continue
        again = found.get((MATCHED, name, child), "not trained")
        if verdict == "confirmed" and again != "not trained":
            verdict += ", matched too" if again == "confirmed" else ", of scale"
        said.setdefault(name, {})[child] = verdict
    return [{"name": name, **by_child} for name, by_child in said.items()]
