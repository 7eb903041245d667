"""reevaluate(): functions again, on any children and data sets, with several seeds, scored on the
test split.

A search ranks by one seed's validation score, and the best of many such scores is partly luck.
Here every function, ReLU and Swish among them, gets the same seeds, so differences are paired. A
learning rate that is chosen for a function is chosen by validation scores, with a seed of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from actsearch.child_models.evaluate import Evaluator
from actsearch.errors import NoCandidateError, UsageError
from actsearch.functions import all_canonical
from actsearch.options import Switch
from actsearch.results.metrics import Metric, common
from actsearch.results.records import ALWAYS_BESIDE, BESIDE_GATES, Outcome, Trial
from actsearch.results.repeats import FAILED, best_first, of_seeds, split_of
from actsearch.results.store import Store
from actsearch.results.tables import Formula, Row
from actsearch.run import Run
from actsearch.search_space.candidate import Candidate, is_gate
from actsearch.search_space.space import Space, extra_operators
from actsearch.search_space.survey import describe
from actsearch.searching.batch import DONE, train
from actsearch.searching.building import (
    AnyEvaluator,
    check_image_size,
    check_model,
    child_evaluator,
    first_steps,
    gate_parameters,
    objective_evaluator,
)
from actsearch.searching.loop import unless_stopped
from actsearch.searching.machinery import Machinery
from actsearch.searching.run_log import logging_to
from actsearch.settings import ReevaluateOptions, resolve

if TYPE_CHECKING:
    import pandas as pd

SWEEP_SEED = 1_000_000  # no seed that is re-evaluated with
SWEEP_STEP = 10**0.5


@dataclass(frozen=True)
class Model:
    """A child on a data set. `evaluators` has one for each learning rate that is tried, the usual
    one first."""

    child: str
    dataset: str
    metric: Metric
    evaluators: tuple[AnyEvaluator, ...]


@dataclass(frozen=True)
class Cell:
    """A function on a model, and the evaluator whose learning rate it was given."""

    candidate: Candidate
    label: str
    model: Model
    evaluator: AnyEvaluator


def reevaluate(
    run: str | Path | Run,
    *,
    functions: Sequence[str] = (),
    baselines: str | Sequence[str] = (),
    dataset: Any = None,
    child: Any = None,
    objective: Any = None,
    metric: Any = None,
    match: Any = None,
    example: Any = None,
    space: Space | None = None,
    quiet: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Train the top functions of `run` (or `functions`) with `seeds` seeds; test scores as a table.
    `baselines` are known functions beside them, as `modern`, or a list of groups and functions.

    `child` and `dataset` are as in search(), or lists of such: every function is trained on every
    child with every data set. So are `objective`, `metric`, `match` and `example`. Columns:
    function, name, child, data set and metric where there are several, mean test score, its
    standard error, median, n, and the mean difference to ReLU paired by seed with its 95 %
    interval; accuracies and their differences as fractions of 1. `space` is needed only for
    operators of your own. Other options are those of `actsearch reevaluate`. Raises
    KeyboardInterrupt where it was asked to stop, as search() does.
    """
    import pandas as pd

    path = str(run.path if isinstance(run, Run) else run)
    beside = (baselines,) if isinstance(baselines, str) else tuple(baselines)
    config = ReevaluateOptions(run=path, functions=tuple(functions), baselines=beside, **options)
    Switch().check("quiet", quiet)
    console = Console(stderr=True, quiet=quiet)
    own = {"objective": objective, "metric": metric, "match": match, "example": example}
    rows, reason = run_reevaluation(config, console, _several(child), _several(dataset), space, own)
    unless_stopped(reason, path)
    return pd.DataFrame(rows)


def _several(given: Any) -> tuple[Any, ...]:
    """A list is several children or data sets, unless it holds the arrays of one."""
    if given is None:
        return ()
    several = isinstance(given, list) and not any(hasattr(part, "shape") for part in given)
    return tuple(given) if several else (given,)


def run_reevaluation(
    config: ReevaluateOptions,
    console: Console,
    children: tuple[Any, ...] = (),
    datasets: tuple[Any, ...] = (),
    space: Space | None = None,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[list[Row], str]:
    """Train what is missing; returns the table and why it ended. `own` are objective, metric,
    match and example, where they are objects."""
    run = _open(config)
    stored = run.settings
    extra = extra_operators(space) if space is not None else ()
    children, datasets = children or config.child, datasets or config.dataset
    said = {**vars(config), **{name: value for name, value in own.items() if value is not None}}
    if _is_objective(run, said, stored, children, datasets):
        said |= {"child": children or None, "dataset": datasets or None}
        models = [_objective(config, said, stored, extra, console)]
    else:
        models = _models(config, said, stored, children, datasets, extra)
    operators = models[0].evaluators[0].operators
    beside = all_canonical([*ALWAYS_BESIDE, *config.baselines], operators, extra)
    functions = _functions(beside, config, run, operators, extra)
    _check_places(models, functions)
    seeds = _seeds(config, run, models)
    machinery = Machinery.of(config)
    with run.locked():
        store = run.store()
        try:
            with store.transaction():
                for evaluator in _evaluators(models):
                    store.add_protocol(evaluator.protocol_hash, evaluator.description)

            def trained(trials: list[Trial], what: str) -> str:
                title = f"{what} · {_title(models)}"
                return train(
                    run, store, trials, _evaluators(models), machinery, title, console,
                    [candidate.key for candidate in beside],
                )  # fmt: skip

            with logging_to(run.path / "run.log"):
                reason = DONE
                if config.lr_sweep > 1:
                    reason = trained(_sweep(store, functions, models), "learning rates")
                cells = _cells(store, functions, models)
                if reason == DONE:
                    reason = trained(_submit(store, "reevaluate", cells, seeds), "re-evaluation")
            return _table(store, cells, models, seeds), reason
        finally:
            store.close()


def _open(config: ReevaluateOptions) -> Run:
    if config.run is None:
        return Run.newest()
    return Run(Path(config.run)) if config.functions else Run.open(config.run)


def _is_objective(
    run: Run,
    said: Mapping[str, Any],
    stored: dict[str, Any],
    children: Sequence[Any],
    datasets: Sequence[Any],
) -> bool:
    """Whether it is trained by an objective: one that is said, else that of the search, unless both
    a child and data are said."""
    if said["objective"] is not None:
        return True
    if children and datasets:
        stored.pop("objective", None)
        return False
    if run.objective and (children or datasets):
        raise UsageError(
            f"{run.path} was searched with an objective, so give a child together with a data set"
        )
    if run.objective and stored.get("objective") is None:
        raise UsageError(
            "the search was given its objective as an object of Python; give reevaluate() the same "
            "as objective=..., or name it: --objective my_module:train"
        )
    return run.objective is not None


def _objective(
    config: ReevaluateOptions,
    said: Mapping[str, Any],
    stored: dict[str, Any],
    extra: tuple[Any, ...],
    console: Console,
) -> Model:
    """The objective as a model; raises where it fails after a few steps, before anything trains."""
    if config.lr_sweep > 1:
        raise UsageError(
            "--lr-sweep tries learning rates of children; an objective sees to its own"
        )
    in_turns = Machinery.of(config).in_turns
    evaluator = objective_evaluator(resolve(said, stored), extra, test=True, in_turns=in_turns)
    outcome = first_steps(evaluator)
    test = evaluator.metric.test_name
    if outcome.status == "ok" and test not in outcome.details["scores"]:
        console.print(
            f"{evaluator.name} returns no {test!r}, so the table has the score that was searched "
            "by, with other seeds.",
            highlight=False,
            soft_wrap=True,
        )
    return Model(evaluator.name, "own data", evaluator.metric, (evaluator,))


def _models(
    config: ReevaluateOptions,
    own: Mapping[str, Any],
    stored: dict[str, Any],
    children: Sequence[Any],
    datasets: Sequence[Any],
    extra: tuple[Any, ...],
) -> list[Model]:
    """Every child with every data set; raises where one cannot be built, before anything trains."""
    for name, given in (("child", children), ("dataset", datasets)):
        if stored and stored.get(name) is None and not given:
            raise UsageError(
                f"the search was given its {name} as an object of Python; give reevaluate() the "
                f"same as {name}=..., or the name of another (--{name})"
            )
    check_image_size(config.image_size, datasets or [stored.get("dataset")])
    found: list[Model] = []
    names: Counter[str] = Counter()
    for dataset in datasets or (None,):
        data: Any = None  # is loaded once
        for child in children or (None,):
            said = {**own, "child": child, "dataset": data or dataset}
            evaluator = child_evaluator(
                resolve(said, stored),
                extra,
                test=True,
                inspect=True,
                in_turns=Machinery.of(config).in_turns,
            )
            data = evaluator.dataset
            _check(evaluator)
            rates = _rates(evaluator.recipe.lr, config.lr_sweep)
            evaluators = tuple(evaluator.with_recipe(lr=rate) for rate in rates)
            again = names[data.name] + 1
            name = data.name if again == 1 else f"{data.name} ({again})"
            found.append(Model(evaluator.child.name, name, evaluator.metric, evaluators))
        names[data.name] += 1
    return found


def _check(evaluator: Evaluator) -> None:
    try:
        model = evaluator.build("relu(x)")
    except Exception as error:
        raise UsageError(
            f"the child {evaluator.child.name} cannot be built for {evaluator.dataset.name}: "
            f"{' '.join(str(error).split())}"
        ) from error
    check_model(model, evaluator)


def _check_places(models: Iterable[Model], functions: Collection[Candidate]) -> None:
    """Raises ValueError where a candidate has more groups than a child has activations, or is a
    gate and the child has no place for one."""
    several = [candidate.key for candidate in functions if len(candidate.functions) > 1]
    gates = any(map(is_gate, functions))
    for model in models:
        for key in several:
            model.evaluators[0].build(key)
        if gates:
            gate_parameters(model.evaluators[0])


def _rates(lr: float, n: int) -> list[float]:
    """The usual one first, then those around it, the nearer first: lr, below, above, ..."""
    powers = sorted(range(-(n // 2), n - n // 2), key=lambda k: (abs(k), k))
    return [float(f"{lr * SWEEP_STEP**k:.3g}") if k else lr for k in powers]


def _functions(
    beside: Sequence[Candidate],
    config: ReevaluateOptions,
    run: Run,
    operators: str,
    extra: tuple[Any, ...],
) -> dict[Candidate, str]:
    """The functions and what people call them: baselines first."""
    asked = all_canonical(config.functions or _best(run, config.top), operators, extra)
    gates = any(map(is_gate, asked))
    best_known = all_canonical(BESIDE_GATES[:1] if gates else (), operators)
    found = dict.fromkeys((*beside, *best_known, *asked))
    return {candidate: describe(candidate, operators).name for candidate in found}


def _best(run: Run, n: int) -> list[str]:
    """The best candidates of the search, without its baselines."""
    found = [e.expression for e in run.leaderboard() if e.rank is not None and not e.beside]
    if not found:
        raise NoCandidateError(
            f"{run.path} has no function that trained yet; search first, or give --functions"
        )
    return found[:n]


def _seeds(config: ReevaluateOptions, run: Run, models: list[Model]) -> range:
    """Seeds that chose a function are no independent ones where all else is the search's."""
    identity = run.config.get("identity", {})
    same = any(e.protocol == identity.get("protocol") for e in _evaluators(models))
    first = (
        max((identity["seed"], *(row["seed"] for row in run.rows("confirm")))) + 1 if same else 0
    )
    return range(first, first + config.seeds)


def _evaluators(models: Iterable[Model]) -> list[AnyEvaluator]:
    return [evaluator for model in models for evaluator in model.evaluators]


def _title(models: list[Model]) -> str:
    usual = models[0].evaluators[0]
    if len(models) > 1:
        return f"{len(models)} models"
    return usual.title


# -- trials


def _submit(store: Store, kind: str, cells: Iterable[Cell], seeds: Iterable[int]) -> list[Trial]:
    """A trial for each seed and cell; seed by seed, so that what has been trained when it is
    stopped can be compared."""
    cells = list(cells)
    with store.transaction():
        return [
            store.submit(
                kind,
                cell.candidate.key,
                cell.evaluator.protocol_hash,
                seed,
                formula=cell.candidate.formula,
                label=cell.label,
            )
            for seed in seeds
            for cell in cells
        ]


def _sweep(store: Store, functions: dict[Candidate, str], models: list[Model]) -> list[Trial]:
    cells = [
        Cell(candidate, label, model, evaluator)
        for model in models
        for evaluator in model.evaluators
        for candidate, label in functions.items()
    ]
    return _submit(store, "sweep", cells, [SWEEP_SEED])


def _cells(store: Store, functions: dict[Candidate, str], models: list[Model]) -> list[Cell]:
    """Each function on each model, at the learning rate that its sweep found best, the usual one
    where there was none or where nothing trained."""

    def score(candidate: Candidate, evaluator: AnyEvaluator) -> float:
        trial = store.find("sweep", candidate.key, evaluator.protocol_hash, SWEEP_SEED)
        outcome = store.outcome(trial) if trial is not None else None
        found = outcome.val_score if outcome is not None else None
        return FAILED if found is None else evaluator.metric.reward(found)

    return [
        Cell(candidate, label, model, max(model.evaluators, key=lambda e: score(candidate, e)))
        for model in models
        for candidate, label in functions.items()
    ]


# -- the table


def _table(store: Store, cells: list[Cell], models: list[Model], seeds: range) -> list[Row]:
    """One row a function and model, of each model the best mean first; a function with a failed
    seed has no mean."""
    rows: list[Row] = []
    one = common(model.metric for model in models)
    called = one.name if one else "score"
    for model in models:
        mine = [(c, _outcomes(store, c, seeds)) for c in cells if c.model is model]
        relu = next(_scores(outcomes) for c, outcomes in mine if c.label == "relu")
        details = (o.details for _, outcomes in mine for o in outcomes.values())
        column = f"{split_of((d.get('scores') for d in details), model.metric)} {called}"
        found = [_row(cell, outcomes, relu, models, column) for cell, outcomes in mine]
        rows += best_first(found, column, model.metric)
    return rows


def _outcomes(store: Store, cell: Cell, seeds: range) -> dict[int, Outcome]:
    protocol = cell.evaluator.protocol_hash
    trials = {s: store.find("reevaluate", cell.candidate.key, protocol, s) for s in seeds}
    found = {s: store.outcome(t) for s, t in trials.items() if t is not None}
    return {seed: outcome for seed, outcome in found.items() if outcome is not None}


def _scores(outcomes: dict[int, Outcome]) -> dict[int, float]:
    """Test score by seed, of the seeds that trained."""
    return {s: o.test_score for s, o in outcomes.items() if o.test_score is not None}


def _row(
    cell: Cell,
    outcomes: dict[int, Outcome],
    relu: dict[int, float],
    models: list[Model],
    column: str,
) -> Row:
    failed = next((f"{o.status}: {o.reason}" for o in outcomes.values() if o.status != "ok"), "")
    reference = {} if cell.label == "relu" else relu
    model = cell.model
    row: dict[str, Any] = {"formula": Formula(cell.candidate.formula), "name": cell.label}
    if len({m.child for m in models}) > 1:
        row["child"] = model.child
    if len({m.dataset for m in models}) > 1:
        row["data"] = model.dataset
    if common(m.metric for m in models) is None:
        row["metric"] = model.metric.name
    if len(model.evaluators) > 1 and isinstance(cell.evaluator, Evaluator):
        row["lr"] = f"{cell.evaluator.recipe.lr:g}"
    return row | of_seeds(_scores(outcomes), reference, failed, model.metric, column)
