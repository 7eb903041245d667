"""search(): launch or resume a search. The command line and the Python API both come here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from actsearch.child_models.evaluate import Evaluator, Evaluators
from actsearch.controller.racing import Race, RaceRules, race_rules
from actsearch.controller.strategies import normal, rungs, short, strategy_from
from actsearch.errors import NoCandidateError, RunError, UsageError
from actsearch.results.leaderboard import BESIDE
from actsearch.results.records import Trial
from actsearch.results.store import Store, StoreError
from actsearch.results.tables import duration
from actsearch.run import RUNS, Run
from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE
from actsearch.search_space.baselines import BASELINES
from actsearch.search_space.candidate import candidate_from
from actsearch.search_space.kernels.ahead import Ahead
from actsearch.search_space.space import Space, everything, extra_operators, in_groups, space_from
from actsearch.search_space.survey import Survey, describe, survey
from actsearch.searching.building import check_image_size, environment, make_evaluator, warm_up
from actsearch.searching.callbacks import Callback
from actsearch.searching.identity import Candidates, Level, submit_candidate
from actsearch.searching.live import live
from actsearch.searching.loop import STOPPED, Source, run_trials
from actsearch.searching.machinery import Machinery, local_workers, running
from actsearch.searching.progress import HISTORY, Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.run_log import logging_to
from actsearch.searching.sources import Raced, StrategySource, asking
from actsearch.searching.stop import Stop
from actsearch.searching.tracker import TensorBoard, writer_class
from actsearch.settings import SearchOptions, Settings, resolve
from actsearch.versions import untested

COUNTABLE = 10_000  # spaces up to this size are counted without repeats for the plan
_NOT_STORED = ("groups", "halving", "tensorboard")


@dataclass(frozen=True)
class Plan:
    """What a search is going to do, known before anything starts."""

    run: Run
    settings: Settings
    space: Space
    evaluator: Evaluator
    survey: Survey | None  # of a space that is small enough
    seconds_a_child: float
    race: RaceRules | None
    done: int  # functions that the run has trained already

    @property
    def events(self) -> Path:
        """Where TensorBoard finds the search."""
        return self.run.path / "tensorboard"

    @property
    def total(self) -> int | None:
        """Functions to train, as far as it can be said."""
        budget, size = self.settings.budget, self.distinct
        known = [n for n in (budget, size) if n is not None]
        return min(known, default=None)

    @property
    def distinct(self) -> int | None:
        """Functions in the space that are worth training, where they were counted."""
        if self.survey is None:
            return None
        return len(self.survey.distinct)

    @property
    def identity(self) -> dict[str, Any]:
        """What cannot change when the run is resumed."""
        return _identity(self.space, self.settings, self.evaluator)

    def lines(self) -> list[str]:
        """The plan in words."""
        s, recipe = self.settings, self.evaluator.recipe
        functions = f"{self.space.size:,} candidates"
        if self.survey is not None:
            functions += f", {self.distinct:,} different functions"
            functions += f", {self.survey.rejected.total():,} rejected"
        left = None if self.total is None else max(0, self.total - self.done)
        train = "no budget: until stopped" if left is None else f"{left:,} to train"
        if self.done:
            train = f"{self.done:,} done, {train}"
        lines = [
            f"run        {self.run.path}",
            f"space      {self.space.spec}: {functions}; {train} ({s.strategy})",
            f"child      {self.evaluator.child.name} on {self.evaluator.dataset.name}, "
            f"{recipe.steps:,} steps of {recipe.batch_size}, operators {s.operators}",
        ]
        cohorts = rungs(s.strategy)
        if cohorts is not None:
            lines.append(f"rungs      cohorts of {cohorts.words(recipe.steps)} steps")
        if self.race is not None:
            lines.append(f"racing     {self.race.words()}")
        if s.tensorboard:
            lines.append(f"tracked    tensorboard --logdir {self.events}")
        lines += [f"untested   {sentence}" for sentence in untested()]
        child = f"time       about {duration(self.seconds_a_child)} a child on one worker"
        if left and s.ray_address is None:
            share = 1.0 if cohorts is None else cohorts.cost
            beside = 0 if self.done else len(BESIDE)
            workers = _workers(Machinery.of(s), left + beside)
            total = self.seconds_a_child * (left * share + beside) / workers
            child += f", {duration(total)} for all on {workers}; dearer functions take longer"
        return [*lines, child]


def _workers(machinery: Machinery, trainings: int) -> int:
    """How many train on this machine."""
    if machinery.executor == "inline":
        return 1
    most, _ = machinery.most(trainings)
    workers = machinery.workers or local_workers(machinery.workers_per_gpu)
    return min(workers, most or workers)


def search(
    run: str | Path | None = None,
    *,
    space: str | Space | None = None,
    dataset: Any = None,
    child: Any = None,
    quiet: bool = False,
    callbacks: Iterable[Callback] = (),
    **options: Any,
) -> Run:
    """Launch a search, or resume the one in the folder `run`; returns the Run when it has ended.

    `space` may be a Space, `dataset` arrays (x, y), `child` a function of `make_activation` that
    returns an nn.Module; other options are those of `actsearch search` (see SearchOptions). Each of
    `callbacks` is called in this process as `callback(trial, outcome, progress)` when a training
    has been stored; one that raises is logged and left out from then on. Raises RunError where the
    run is in use or was made with other settings.
    """
    callbacks = tuple(callbacks)
    if wrong := [c for c in callbacks if not callable(c)]:
        raise TypeError(
            f"callbacks are called as callback(trial, outcome, progress); {wrong[0]!r} cannot be"
        )
    names = {f.name for f in fields(SearchOptions)}
    if unknown := [name for name in options if name not in names]:
        raise TypeError(f"search() has no option {unknown[0]!r}; it has {', '.join(sorted(names))}")
    objects = {"space": space, "dataset": dataset, "child": child}
    given = {k: v for k, v in objects.items() if isinstance(v, str)}
    config = SearchOptions(run=None if run is None else str(run), **given, **options)
    made = {k: v for k, v in objects.items() if v is not None and not isinstance(v, str)}
    console = Console(stderr=True, quiet=quiet)
    plan = make_plan(config, made)
    carry_out(plan, console, callbacks)
    return plan.run


def make_plan(
    config: SearchOptions, objects: Mapping[str, Any] | None = None, *, dry: bool = False
) -> Plan:
    """Resolve the settings (given, else the run's own, else the preset's) and check them. A `dry`
    plan is only shown, so another driver may hold the run."""
    objects = objects or {}
    run = Run(Path(config.run or _default_run(config, objects)))
    stored = dict(run.config.get("settings", {}))
    if stored.pop("skip_symmetric", "off") == "on":
        raise RunError(
            f"{run.path} was made with --skip-symmetric on, an option that is gone: the functions "
            "that it left out train differently. The run can be read; search in another folder."
        )
    settings = replace(resolve(vars(config), stored), **objects)
    settings = replace(settings, strategy=normal(settings.strategy, halving=settings.halving))
    if settings.tensorboard:
        writer_class()
    space = _space(settings)
    check_image_size(config.image_size, [settings.dataset])
    in_turns = Machinery.of(settings).in_turns
    evaluator = make_evaluator(settings, extra_operators(space), in_turns=in_turns)
    strategy_from(settings.strategy, space, settings.seed)
    race = _race(settings, evaluator)
    settings = replace(settings, racing="off" if race is None else str(race))
    run.check_identity(_identity(space, settings, evaluator))
    if not dry:
        run.check_free()
    seconds = warm_up(evaluator)
    evaluator.build(space.decode(space.digits(0)).key)  # raises where it has no place in the child
    found = _survey(space, settings)
    return Plan(run, settings, space, evaluator, found, seconds, race, _done(run))


def _space(settings: Settings) -> Space:
    space = space_from(settings.space) if isinstance(settings.space, str) else settings.space
    if not hasattr(space, "decode"):
        raise UsageError(f"space {space!r} must be a name, such as 'tiny', or a Space")
    if settings.groups is None:
        return space
    has = getattr(space, "groups", settings.groups)
    if has != settings.groups:
        raise UsageError(
            f"--groups {settings.groups}: {space.spec} has {has} groups; say one number"
        )
    return in_groups(space, settings.groups)


def _identity(space: Space, settings: Settings, evaluator: Evaluator) -> dict[str, Any]:
    return {
        "space": space.spec,
        "seed": settings.seed,
        "screen": settings.screen,
        "protocol": evaluator.protocol,
    }


def _done(run: Run) -> int:
    try:
        with closing(run.store(readonly=True)) as store:
            return len(store.trained())
    except StoreError:  # there is none yet; one that is damaged is said when the search starts
        return 0


def _default_run(config: SearchOptions, objects: Mapping[str, Any]) -> Path:
    """runs/SPACE-STRATEGY-DATASET."""
    settings = replace(resolve(vars(config)), **objects)
    space = _space(settings).name or "custom"
    dataset = settings.dataset
    dataset = Path(dataset).stem if isinstance(dataset, str) else "arrays"
    strategy = short(normal(settings.strategy, halving=settings.halving))
    name = f"{space}-{strategy}-{dataset}"
    return RUNS / re.sub(r"[^A-Za-z0-9._+=,-]+", "_", name)


def _race(settings: Settings, evaluator: Evaluator) -> RaceRules | None:
    race = race_rules(settings.racing, evaluator.recipe.steps, evaluator.metric)
    if race is None:
        return None
    if rungs(settings.strategy) is not None:
        raise UsageError("--racing and --halving both leave functions behind; choose one of them")
    last = race.rungs[-1][0]
    if last >= evaluator.recipe.steps:
        raise UsageError(
            f"--racing {race} has a rung at step {last}, but children train for "
            f"{evaluator.recipe.steps} steps; give earlier rungs, as {race.name}:"
            f"{max(1, evaluator.recipe.steps // 10)}=0.25"
        )
    return race


def _survey(space: Space, settings: Settings) -> Survey | None:
    """Of a space that is small enough to be counted."""
    if space.size > COUNTABLE:
        return None
    try:
        every = everything(space)
        return survey(every, settings.operators, screening=settings.screen == "on")
    except NOT_DIFFERENTIABLE:
        return None  # a user's operator; the search sees to each function by itself


def carry_out(plan: Plan, console: Console, callbacks: Iterable[Callback] = ()) -> str:
    """Run the plan; returns why it ended, `stopped` among the reasons."""
    run = plan.run
    with run.locked():
        run.check_identity(plan.identity)
        with closing(run.store()) as store:
            if not run.config:
                run.write_config(_config(plan))
            with logging_to(run.path / "run.log"):
                try:
                    return _search(plan, store, console, callbacks)
                finally:
                    if run.held():
                        run.write_top()


def _config(plan: Plan) -> dict[str, Any]:
    settings = {
        name: value if isinstance(value, (str, int, float, bool, type(None))) else None
        for name, value in vars(plan.settings).items()
        if name not in _NOT_STORED
    }
    if isinstance(plan.settings.dataset, Path):
        settings["dataset"] = str(plan.settings.dataset)
    settings["space"] = plan.space.spec
    dataset = plan.evaluator.dataset
    return {
        "identity": plan.identity,
        "settings": settings,
        "data": {"metric": plan.evaluator.metric.to_config(), "examples": dataset.sizes},
        "environment": environment(),
    }


def _search(plan: Plan, store: Store, console: Console, callbacks: Iterable[Callback]) -> str:
    settings = plan.settings
    evaluators = _evaluators(plan, store)
    level = _levels(store, plan, evaluators)
    with store.transaction():
        beside = [_baseline(store, name, plan, level(1.0)) for name in BESIDE]
    ahead = Ahead(plan.evaluator.kernel_kinds(), settings.operators)
    source = _source(plan, store, level, beside, ahead)
    try:
        with _trackers(plan, store) as trackers:
            stop = Stop(plan.run)
            if not source.anything_left(stop):
                return STOPPED if stop() else source.ended
            raced = source if plan.race is None else Raced(source, Race(plan.race), store, beside)
            told = (*trackers, *callbacks)
            return _run(plan, store, raced, evaluators.values(), stop, console, told)
    finally:
        ahead.close()


def _source(
    plan: Plan,
    store: Store,
    level: Callable[[float], Level],
    beside: Iterable[Trial],
    ahead: Ahead,
) -> StrategySource:
    settings = plan.settings
    name, operators, seed = settings.strategy, settings.operators, settings.seed
    candidates = Candidates(store, plan.space, operators, plan.evaluator.extra, seed)
    metric = plan.evaluator.metric
    strategy = strategy_from(name, plan.space, seed, metric)
    proposals = Proposals(store, strategy, name, candidates, level, metric)
    chain = asking(
        proposals,
        budget=settings.budget,
        patience=settings.patience,
        screening=settings.screen == "on",
    )
    return StrategySource(proposals, chain, beside, ahead)


@contextmanager
def _trackers(plan: Plan, store: Store) -> Iterator[tuple[Callback, ...]]:
    if not plan.settings.tensorboard:
        yield ()
        return
    settings = _config(plan)["settings"]
    with closing(
        TensorBoard(plan.events, store, settings["strategy"], settings, plan.evaluator.metric)
    ) as tracker:
        yield (tracker,)


def _run(
    plan: Plan,
    store: Store,
    source: Source,
    evaluators: Iterable[Evaluator],
    stop: Stop,
    console: Console,
    callbacks: Iterable[Callback],
) -> str:
    settings, done = plan.settings, source.tally.done
    plan.run.write_config(_config(plan))  # as it trains from now on
    machinery = Machinery.of(settings)
    left = None if plan.total is None else max(0, plan.total - done)
    trainings = None if left is None else left + len(store.waiting())
    kept = machinery.checkpoints(plan.run)
    evaluate = Evaluators(evaluator.keeping(kept) for evaluator in evaluators)
    forget = () if kept is None else (kept.forget,)
    with running(machinery, evaluate, trainings, stop, console) as executor:
        title = " · ".join(
            (
                f"{plan.run.path}  {settings.strategy}",
                plan.evaluator.child.name,
                plan.evaluator.dataset.name,
                f"{plan.evaluator.recipe.steps:,} steps",
            )
        )
        progress = Progress(
            title,
            executor.description,
            plan.total,
            plan.evaluator.metric,
            done_before=done,
        )
        progress.load(store.rows("search"))
        progress.health = [*store.health(settings.strategy)[-HISTORY:]]
        progress.update(source.tally, 0)
        with live(progress, console):
            reason = run_trials(store, source, executor, progress, stop, (*forget, *callbacks))
    return reason


def _evaluators(plan: Plan, store: Store) -> dict[int, Evaluator]:
    """By the steps that they train for: the whole training, the strategy's rungs, and those of
    trials that another strategy has left."""
    cohorts, evaluator = rungs(plan.settings.strategy), plan.evaluator
    shares = () if cohorts is None else cohorts.shares
    left = {store.protocol(trial.protocol)["recipe"]["steps"] for trial in store.waiting()}
    steps = {evaluator.recipe.steps, *(_steps(evaluator, share) for share in shares), *left}
    return {n: evaluator.with_recipe(steps=n) for n in sorted(steps)}


def _steps(evaluator: Evaluator, share: float) -> int:
    return max(1, round(share * evaluator.recipe.steps))


def _levels(
    store: Store, plan: Plan, evaluators: Mapping[int, Evaluator]
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


def _baseline(store: Store, name: str, plan: Plan, level: Level) -> Trial:
    operators = plan.settings.operators
    found = describe(candidate_from(BASELINES[name]).canonical(operators), operators)
    return submit_candidate(store, found, level, plan.settings.seed, label=name)


def check_found(run: Run) -> None:
    """Raises NoCandidateError where no function of the run has trained."""
    counts = run.counts()
    if counts["ok"] == 0:
        failed = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        raise NoCandidateError(
            f"no function trained in {run.path} ({failed or 'no trials'}); "
            f"'actsearch top {run.path} -f csv' and {run.path}/run.log give the reasons"
        )
