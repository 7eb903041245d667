"""train(): trials of any protocols on one executor, those that have no outcome yet or had too
little time."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rich.console import Console

from actsearch.child_models.evaluate import Evaluators
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.searching.building import AnyEvaluator
from actsearch.searching.live import live
from actsearch.searching.loop import run_trials
from actsearch.searching.machinery import Machinery, running
from actsearch.searching.progress import Progress
from actsearch.searching.sources import FixedSource
from actsearch.searching.status import noting
from actsearch.searching.stop import Stop

DONE = "all trained"


def train(
    run: Run,
    store: Store,
    trials: Iterable[Trial],
    evaluators: Iterable[AnyEvaluator],
    machinery: Machinery,
    title: str,
    console: Console,
    beside: Collection[str] = (),
) -> str:
    """Train each trial by the evaluator of its protocol; returns why it ended. `run` is locked;
    `beside` are the subjects of the baselines."""
    missing = [t for t in trials if _to_train(store.outcome(t), machinery.timeout)]
    if not missing:
        return DONE
    evaluators = [*evaluators]
    checkpoints = machinery.checkpoints(run)
    evaluate = Evaluators(e.keeping(checkpoints) for e in evaluators)
    metrics = {e.protocol_hash: e.metric for e in evaluators}
    stop = Stop(run)
    with running(machinery, evaluate, len(missing), stop, console) as executor:
        progress = Progress(
            f"{run.path}  {title}",
            executor.description,
            len(missing),
            metrics=metrics,
            beside=beside,
        )
        with live(progress, console), noting(progress, run):
            forget = () if checkpoints is None else (checkpoints.forget,)
            return run_trials(store, FixedSource(missing), executor, progress, stop, forget)


def _to_train(outcome: Outcome | None, timeout: float | None) -> bool:
    """Whether there is no outcome, or there is more time now than it took to say `timed_out`."""
    if outcome is None:
        return True
    longer = timeout is None or timeout > outcome.seconds
    return outcome.status == "timed_out" and longer
