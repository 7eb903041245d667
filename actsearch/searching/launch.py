"""search(): launch or resume a search. The command line and the Python API both come here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from actsearch.child_models.evaluate import Evaluators
from actsearch.controller.racing import Race
from actsearch.controller.silent import Silent
from actsearch.controller.strategies import command_of, rungs, several_from, strategy_from
from actsearch.controller.threads import one_thread
from actsearch.errors import NoCandidateError
from actsearch.options import Switch
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.kernels.ahead import Ahead
from actsearch.search_space.space import Space
from actsearch.search_space.survey import describe
from actsearch.searching.building import AnyEvaluator
from actsearch.searching.callbacks import Callback
from actsearch.searching.confirming import Confirm
from actsearch.searching.external import External
from actsearch.searching.identity import Candidates, Level
from actsearch.searching.inbox import Inbox
from actsearch.searching.live import live
from actsearch.searching.loop import STOPPED, TrialSource, run_trials, unless_stopped
from actsearch.searching.machinery import Machinery, running
from actsearch.searching.outside import Proposer
from actsearch.searching.plan import Plan, make_plan
from actsearch.searching.progress import HISTORY, Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.rejections import rejection
from actsearch.searching.run_log import logging_to
from actsearch.searching.sources import Raced, StrategySource, asking
from actsearch.searching.status import noting
from actsearch.searching.stop import Stop
from actsearch.searching.tracking.tracking import Tracked, Tracking, identifier_of
from actsearch.settings import SearchOptions
from actsearch.shown import top_rows


def search(
    run: str | Path | None = None,
    *,
    space: str | Space | None = None,
    dataset: Any = None,
    child: Any = None,
    objective: Any = None,
    metric: Any = None,
    match: Any = None,
    example: Any = None,
    baselines: str | Sequence[str] = (),
    quiet: bool = False,
    callbacks: Iterable[Callback] = (),
    **options: Any,
) -> Run:
    """Launch a search, or resume the one in the folder `run`; returns the Run when it has ended.

    `space` may be a Space, `dataset` arrays (x, y), `child` a function of `make_activation` that
    returns an nn.Module. Or `child` is an nn.Module that is built already, or a function without
    arguments that builds one, in which the candidate takes the place of `match`, types of modules
    and functions of torch; `example` is a batch of inputs [blank ones] (docs/models.md). `task`
    says what arrays are for. In the place of both `objective` may be a training of your own,
    train(make_activation, seed, steps, report), which returns scores by name, and `metric` the
    Metric of the name that is searched for (docs/objectives.md). `baselines` are known functions
    to train beside it, as `modern`, or a list of groups, names and formulas; `start` are functions
    to train first, as candidates. Other options are those of `actsearch search` (see
    SearchOptions). Each of `callbacks` is called in this process as `callback(trial, outcome,
    progress)` when a training has been stored; one that raises is logged and left out from then on.
    Raises RunError where the run is in use or was made with other settings, and KeyboardInterrupt
    where it was asked to stop, by Ctrl-C, SIGTERM or `actsearch stop`: children in training have
    finished then, and the same call goes on.
    """
    callbacks = tuple(callbacks)
    if wrong := [c for c in callbacks if not callable(c)]:
        raise TypeError(
            f"callbacks are called as callback(trial, outcome, progress); {wrong[0]!r} cannot be"
        )
    Switch().check("quiet", quiet)
    names = {f.name for f in fields(SearchOptions)}
    if unknown := [name for name in options if name not in names]:
        raise TypeError(f"search() has no option {unknown[0]!r}; it has {', '.join(sorted(names))}")
    objects = {
        "space": space, "dataset": dataset, "child": child, "objective": objective, "match": match
    }  # fmt: skip
    given = {k: v for k, v in objects.items() if isinstance(v, str)}
    beside = (baselines,) if isinstance(baselines, str) else tuple(baselines)
    path = None if run is None else str(run)
    config = SearchOptions(run=path, baselines=beside, **given, **options)
    made = {k: v for k, v in objects.items() if v is not None and not isinstance(v, str)}
    made |= {k: v for k, v in {"metric": metric, "example": example}.items() if v is not None}
    console = Console(stderr=True, quiet=quiet)
    with one_thread():
        plan = make_plan(config, made)
        ending = run_plan(plan, console, callbacks)
    unless_stopped(ending.reason, plan.run.path)
    return plan.run


HASTE_SECONDS = 5.0  # that trackers have where the search ends by an exception


class Ending(NamedTuple):
    """Why a search ended, `stopped` among the reasons, and what else is to be said of it."""

    reason: str
    notes: Sequence[str] = ()


def run_plan(plan: Plan, console: Console, callbacks: Iterable[Callback] = ()) -> Ending:
    run = plan.run
    with run.locked():
        run.check_identity(plan.identity)
        with closing(run.store()) as store:
            if not run.config:
                run.write_config(plan.config())
            with logging_to(run.path / "run.log"):
                try:
                    return _search(plan, store, console, callbacks)
                finally:
                    if run.held():
                        run.write_top()


def _search(plan: Plan, store: Store, console: Console, callbacks: Iterable[Callback]) -> Ending:
    settings = plan.settings
    evaluators = _evaluators(plan, store)
    level = _levels(store, plan, evaluators)
    extra, seed = plan.evaluator.extra, settings.seed
    candidates = Candidates(store, plan.space, settings.operators, extra, seed)
    beside, screened_out = _beside(plan, store, candidates, level(1.0))
    ahead = Ahead(plan.evaluator.kernel_kinds(), settings.operators)
    try:
        stop = Stop(plan.run)
        with (
            _external(plan, store, stop) as external,
            _tracking(plan, store, console) as (tracking, notes),
        ):
            source = _source(plan, candidates, level, beside, screened_out, ahead, external)
            if source.anything_left(stop):
                race = plan.race
                raced = source if race is None else Raced(source, Race(race), store, beside)
                told = (tracking, *callbacks)
                reason = _run(plan, store, raced, evaluators.values(), stop, console, told)
            else:
                reason = STOPPED if stop() else source.ended
            tracking.whole = reason != STOPPED
        return Ending(reason, notes)
    finally:
        ahead.close()


def _source(
    plan: Plan,
    candidates: Candidates,
    level: Callable[[float], Level],
    beside: Sequence[Trial],
    screened_out: Mapping[str, Outcome],
    ahead: Ahead,
    external: Sequence[Proposer],
) -> StrategySource:
    settings, metric = plan.settings, plan.evaluator.metric
    name = settings.strategy
    if plan.aims is not None:
        strategy = several_from(name, plan.space, settings.seed)
    else:
        strategy = Silent() if external else strategy_from(name, plan.space, settings.seed, metric)
    proposals = Proposals(
        candidates.store, strategy, name, candidates, level, metric, screened_out, plan.aims
    )
    inbox = Inbox(plan.run, candidates.extra)
    inbox.put(c for c in plan.start if candidates.look(c, level(1.0))[0] is None)
    chain = asking(
        proposals,
        budget=settings.budget,
        patience=settings.patience,
        screening=settings.screen == "on",
        proposers=(inbox, *external),
        confirm=Confirm(level(1.0), settings.seed, next((t.subject for t in beside), None))
        if settings.confirm == "on"
        else None,
    )
    return StrategySource(proposals, chain, beside, ahead)


@contextmanager
def _external(plan: Plan, store: Store, stop: Stop) -> Iterator[tuple[Proposer, ...]]:
    """The command that proposes, where the strategy is one. It is not waited for while there are
    trials without an outcome: these wait for workers or are in training."""
    command = command_of(plan.settings.strategy)
    if command is None:
        yield ()
        return
    file, evaluator = plan.run.path / "proposer.log", plan.evaluator
    table, extra = store.rows("search"), evaluator.extra
    busy = lambda: bool(store.waiting())  # noqa: E731
    made = External(command, evaluator.metric, table, file, extra, busy, stop)
    with closing(made) as external:
        yield (external,)


@contextmanager
def _tracking(plan: Plan, store: Store, console: Console) -> Iterator[tuple[Tracking, list[str]]]:
    """The callback that tells trackers, and what is to be said of them when they have ended."""
    run, settings, notes = plan.run, plan.config()["settings"], []
    names = plan.settings.trackers
    identifier = identifier_of(run.path) if names else ""
    search = Tracked(run.path, identifier, settings, plan.evaluator.metric)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    tracking = Tracking(names, search, store, plan.settings.strategy, say)
    try:
        yield tracking, notes
    except BaseException:
        tracking.end((), HASTE_SECONDS)
        raise
    notes += tracking.end(top_rows(run.leaderboard(), full=True) if names else ())


def _run(
    plan: Plan,
    store: Store,
    source: TrialSource,
    evaluators: Iterable[AnyEvaluator],
    stop: Stop,
    console: Console,
    callbacks: Iterable[Callback],
) -> str:
    settings, done = plan.settings, source.tally.done
    plan.run.write_config(plan.config())  # as it trains from now on
    machinery = Machinery.of(settings)
    left = None if plan.total is None else max(0, plan.total - done)
    trainings = None if left is None else left + len(store.waiting())
    kept = machinery.checkpoints(plan.run)
    evaluate = Evaluators(evaluator.keeping(kept) for evaluator in evaluators)
    forget = () if kept is None else (kept.forget,)
    with running(machinery, evaluate, trainings, stop, console) as executor:
        title = f"{plan.run.path}  {settings.strategy} · {plan.evaluator.title}"
        progress = Progress(
            title,
            executor.description,
            plan.total,
            plan.evaluator.metric,
            beside=store.beside(),
            done_before=done,
            beyond=settings.budget is None,
        )
        progress.load(store.rows("search"))
        progress.health = [*store.health(settings.strategy)[-HISTORY:]]
        progress.update(source.tally, 0)
        with live(progress, console), noting(progress, plan.run):
            reason = run_trials(store, source, executor, progress, stop, (*forget, *callbacks))
    return reason


def _evaluators(plan: Plan, store: Store) -> dict[int, AnyEvaluator]:
    """By the steps that they train for: the whole training, the strategy's rungs, and those of
    trials that another strategy has left."""
    cohorts, evaluator = rungs(plan.settings.strategy), plan.evaluator
    shares = () if cohorts is None else cohorts.shares
    left = {store.protocol(trial.protocol)["recipe"]["steps"] for trial in store.waiting()}
    steps = {evaluator.recipe.steps, *(_steps(evaluator, share) for share in shares), *left}
    return {n: evaluator.with_recipe(steps=n) for n in sorted(steps)}


def _steps(evaluator: AnyEvaluator, share: float) -> int:
    return max(1, round(share * evaluator.recipe.steps))


def _levels(
    store: Store, plan: Plan, evaluators: Mapping[int, AnyEvaluator]
) -> Callable[[float], Level]:
    """How a share of the steps is trained; its protocol is stored at its first use."""
    whole = plan.evaluator.recipe.steps

    @cache
    def level(share: float) -> Level:
        steps = _steps(plan.evaluator, share)
        protocol = evaluators[steps]
        store.add_protocol(protocol.protocol_hash, protocol.description)
        return Level("search" if steps == whole else "rung", protocol.protocol_hash)

    return level


def _beside(
    plan: Plan, store: Store, candidates: Candidates, level: Level
) -> tuple[list[Trial], Mapping[str, Outcome]]:
    """The trials of the baselines, one of which a candidate may have made already, and by subject
    why screening rejects those that it rejects as candidates."""
    screening = plan.settings.screen == "on"
    trials: list[Trial] = []
    screened_out: dict[str, Outcome] = {}
    with store.transaction():
        for candidate in plan.beside:
            trial, new = candidates.trial_of(candidate, level)
            found = new or describe(candidate, plan.settings.operators)
            trials.append(trial)
            if screening and found.rejected:
                screened_out[trial.subject] = rejection(found.rejected)
                store.reopen(trial)
        subjects = dict.fromkeys(trial.subject for trial in trials)
        store.set_beside({subject: subject in screened_out for subject in subjects})
    return trials, screened_out


def check_found(run: Run) -> None:
    """Raises NoCandidateError where no function of the run has trained."""
    counts = run.counts()
    if counts["ok"] == 0:
        failed = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        raise NoCandidateError(
            f"no function trained in {run.path} ({failed or 'no trials'}); "
            f"'actsearch top {run.path} -f csv' and {run.path}/run.log give the reasons"
        )
