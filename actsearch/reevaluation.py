"""reevaluate(): the best functions again, with several seeds, scored on the test split.

A search ranks by one seed's validation accuracy, and the best of many such scores is partly luck.
Here every function, ReLU and Swish among them, gets the same seeds, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from actsearch.config import DEFAULTS, PRESETS, ReevaluateConfig
from actsearch.errors import NoCandidateError
from actsearch.launch import BESIDE
from actsearch.loop import FixedSource, run_trials
from actsearch.progress import Progress
from actsearch.run import Run
from actsearch.screen import live
from actsearch.session import Machinery, extra_operators, logging_to, make_evaluator, running
from child_models.evaluate import Evaluator
from results.records import Outcome
from results.statistics import estimate, paired_difference
from results.store import Store
from results.tables import Row
from search_space.baselines import BASELINES
from search_space.equivalence import canonical
from search_space.expression import Expr, formula
from search_space.parser import parse
from search_space.space import Space

if TYPE_CHECKING:
    import pandas as pd


def reevaluate(
    run: str | Path | Run,
    *,
    functions: Sequence[str] = (),
    dataset: Any = None,
    child: Any = None,
    space: Space | None = None,
    quiet: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Train the top functions of `run` (or `functions`) with `seeds` seeds; test accuracy as a
    table.

    Columns: function, name, mean test accuracy, its standard error, n, and the mean difference to
    ReLU paired by seed with its standard error, all as fractions of 1. `space` is needed only for
    operators of your own. Other options are those of `actsearch reevaluate`.
    """
    import pandas as pd

    path = str(run.path if isinstance(run, Run) else run)
    given = {k: v for k, v in (("child", child), ("dataset", dataset)) if isinstance(v, str)}
    config = ReevaluateConfig(run=path, functions=tuple(functions), **given, **options)
    objects = {"child": child, "dataset": dataset}
    made = {k: v for k, v in objects.items() if v is not None and not isinstance(v, str)}
    rows, _ = carry_out(config, Console(stderr=True, quiet=quiet), made, space)
    return pd.DataFrame(rows)


def carry_out(
    config: ReevaluateConfig,
    console: Console,
    objects: dict[str, Any] | None = None,
    space: Space | None = None,
) -> tuple[list[Row], str]:
    """Train what is missing; returns the table and why it ended."""
    run = _open(config)
    settings = _settings(config, run) | (objects or {})
    extra = extra_operators(space) if space is not None else ()
    evaluator = make_evaluator(settings, extra, test=True)
    operators = settings["operators"]
    functions = {canonical(parse(BASELINES[name]), operators): name for name in BESIDE}
    for text in config.functions or _best(run, config.top):
        functions.setdefault(canonical(parse(text, extra), operators), "")
    # The seed that chose a function is no independent one where all else is the search's.
    first = 0
    if run.config.get("identity", {}).get("protocol") == evaluator.protocol:
        first = run.config["identity"]["seed"] + 1
    seeds = range(first, first + config.seeds)
    with run.locked():
        store = run.store()
        try:
            with logging_to(run.path / "run.log"):
                reason = _train(config, run, store, evaluator, functions, seeds, console)
            return _table(store, evaluator, functions, seeds), reason
        finally:
            store.close()


def _open(config: ReevaluateConfig) -> Run:
    if config.run is None:
        return Run.newest()
    return Run(Path(config.run)) if config.functions else Run.open(config.run)


def _settings(config: ReevaluateConfig, run: Run) -> dict[str, Any]:
    """What the command says, else what the search had, else the quick preset."""
    given = {f.name: getattr(config, f.name) for f in fields(config)}
    stored = run.config.get("settings", {})
    known = {**DEFAULTS, **PRESETS["quick"], **{k: v for k, v in stored.items() if v is not None}}
    chosen = {k: v for k, v in given.items() if v is not None and v is not False}
    return {**known, **chosen, "workers": config.workers}


def _best(run: Run, n: int) -> list[str]:
    """The best functions of the search; those trained beside it anyway are passed over."""
    found = [
        e.expression for e in run.leaderboard() if e.rank is not None and e.label not in BESIDE
    ]
    if not found:
        raise NoCandidateError(
            f"{run.path} has no function that trained yet; search first, or give --functions"
        )
    return found[:n]


def _train(
    config: ReevaluateConfig,
    run: Run,
    store: Store,
    evaluator: Evaluator,
    functions: dict[Expr, str],
    seeds: range,
    console: Console,
) -> str:
    protocol = evaluator.protocol_hash
    with store.transaction():
        store.add_protocol(protocol, evaluator.protocol)
        trials = [
            store.submit("reevaluate", str(e), protocol, seed, formula=formula(e), label=label)
            for seed in seeds
            for e, label in functions.items()
        ]
    missing = [t for t in trials if store.outcome(t) is None]
    if not missing:
        return "all trained"
    machinery = Machinery(
        config.executor or "ray",
        config.workers,
        config.workers_per_gpu,
        config.ray_address,
        config.timeout,
    )
    with running(lambda: machinery.start(evaluator), run.stop_request) as (executor, stop):
        title = (
            f"{run.path}  re-evaluation · {evaluator.child.name} · {evaluator.dataset.name}"
            f" · {evaluator.recipe.steps:,} steps"
        )
        source = FixedSource(missing)
        progress = Progress(title, executor.description, len(missing))
        with live(progress, console):
            return run_trials(store, source, executor, progress, stop)


def _table(
    store: Store, evaluator: Evaluator, functions: dict[Expr, str], seeds: range
) -> list[Row]:
    """One row a function, best mean first; a function with a failed seed has no mean."""
    outcomes: dict[Expr, dict[int, Outcome]] = {
        e: _outcomes(store, str(e), evaluator.protocol_hash, seeds) for e in functions
    }
    relu = next(_scores(outcomes[e]) for e, label in functions.items() if label == "relu")
    rows = [_row(e, functions[e], seen, relu) for e, seen in outcomes.items()]
    return sorted(rows, key=lambda row: -(row["test accuracy"] or -1.0))


def _outcomes(store: Store, expression: str, protocol: str, seeds: range) -> dict[int, Outcome]:
    trials = {s: store.find("reevaluate", expression, protocol, s) for s in seeds}
    found = {s: store.outcome(t) for s, t in trials.items() if t is not None}
    return {seed: outcome for seed, outcome in found.items() if outcome is not None}


def _scores(outcomes: dict[int, Outcome]) -> dict[int, float]:
    """Test accuracy by seed, of the seeds that trained."""
    return {s: o.test_accuracy for s, o in outcomes.items() if o.test_accuracy is not None}


def _row(
    expr: Expr, label: str, outcomes: dict[int, Outcome], relu: dict[int, float]
) -> dict[str, Any]:
    scores = _scores(outcomes)
    failed = next((f"{o.status}: {o.reason}" for o in outcomes.values() if o.status != "ok"), "")
    mean = estimate(list(scores.values())) if scores and not failed else None
    difference = paired_difference(scores, relu) if mean and label != "relu" else None
    return {
        "formula": formula(expr),
        "name": label,
        "test accuracy": mean.mean if mean else None,
        "standard error": mean.standard_error if mean else None,
        "n": len(scores),
        "to relu, paired": difference.mean if difference else None,
        "its standard error": difference.standard_error if difference else None,
        "note": failed,
    }
