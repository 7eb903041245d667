"""Plan: what a search is going to do, known and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.objective import ObjectiveEvaluator
from actsearch.child_models.training.beside_relu import ENOUGH
from actsearch.child_models.users_own import objective_from
from actsearch.controller.racing import EXAMPLE, FIRST, RaceRules, race_rules
from actsearch.controller.strategies import (
    command_of,
    normal,
    rungs,
    several_from,
    short,
    strategy_from,
)
from actsearch.errors import RunError, UsageError
from actsearch.functions import all_canonical
from actsearch.results.aims import COST, Aims, aims_from
from actsearch.results.records import ALWAYS_BESIDE, BESIDE_GATES
from actsearch.results.store import StoreError
from actsearch.results.tables import duration
from actsearch.run import RUNS, Run
from actsearch.search_space.analysis.evaluation import NOT_DIFFERENTIABLE
from actsearch.search_space.baselines import FORMS
from actsearch.search_space.candidate import Candidate, is_gate
from actsearch.search_space.space import (
    Space,
    everything,
    extra_operators,
    in_groups,
    space_from,
    with_ties,
)
from actsearch.search_space.survey import Survey, survey
from actsearch.searching.building import (
    AnyEvaluator,
    check_image_size,
    environment,
    gate_parameters,
    make_evaluator,
    warm_up,
)
from actsearch.searching.machinery import Machinery, local_workers
from actsearch.searching.tracking.trackers import TRACKERS, check_installed
from actsearch.settings import SearchOptions, Settings, resolve
from actsearch.versions import untested

COUNTABLE = 10_000  # spaces up to this size are counted without repeats for the plan
# The metric is stored with the data.
_NOT_STORED = (
    "groups", "ties", "halving", "track", "tensorboard", "minimise", "maximise", "metric", "example"
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a search is going to do, known before anything starts."""

    run: Run
    settings: Settings
    space: Space
    evaluator: AnyEvaluator
    survey: Survey | None  # of a space that is small enough
    seconds_a_child: float | None  # where it is known
    race: RaceRules | None
    beside: tuple[Candidate, ...]  # the baselines
    start: tuple[Candidate, ...]  # to be trained before the strategy's
    beside_left: int  # those that have no outcome yet
    done: int  # functions that the run has trained already
    parameters: tuple[int, int] | None = None  # of the child with a gate and with ReLU
    aims: Aims | None = None  # where more is sought than the best score

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
        return _identity(self.space, self.settings, self.evaluator, self.aims)

    def config(self) -> dict[str, Any]:
        """What the run keeps of it."""
        settings: dict[str, Any] = {
            name: value if isinstance(value, (str, int, float, bool, type(None))) else None
            for name, value in vars(self.settings).items()
            if name not in _NOT_STORED
        }
        if isinstance(self.settings.dataset, Path):
            settings["dataset"] = str(self.settings.dataset)
        settings["space"] = self.space.spec
        settings["baselines"] = [*self.settings.baselines]
        evaluator = self.evaluator
        return {
            "identity": self.identity,
            "settings": settings,
            "data": {"metric": evaluator.metric.to_config(), "examples": {**evaluator.sizes}},
            "environment": environment(),
        }

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
            f"{self.evaluator.kind:<11}{self.evaluator.words}, operators {s.operators}",
            f"baselines  {', '.join(FORMS.get(c.key, c.formula) for c in self.beside)}",
        ]
        if self.aims is not None:
            lines.append(f"sought     {self.aims}")
        if self.start:
            lines.append(f"first      {', '.join(FORMS.get(c.key, c.formula) for c in self.start)}")
        if note := self.evaluator.note:
            lines.append(f"weights    {note}")
        if self.parameters is not None:
            gated, usual = self.parameters
            narrower = f"{gated:,} parameters beside {usual:,} of ReLU"
            lines.append(f"gates      two narrower projections: {narrower}")
        cohorts = rungs(s.strategy)
        if cohorts is not None:
            lines.append(f"rungs      cohorts of {cohorts.words(recipe.steps)} steps")
        if self.race is not None:
            lines.append(f"racing     {self.race.words()}; the first {FIRST} pass")
        if s.confirm == "on":
            within = "within the budget" if s.budget else "when all have trained"
            lines.append(f"confirming the best train again with other seeds, {within}")
        if s.trackers:
            lines.append(f"tracked    {', '.join(TRACKERS[name].title for name in s.trackers)}")
        lines += [f"untested   {sentence}" for sentence in untested()]
        if self.seconds_a_child is None:
            if s.timeout is not None and s.executor == "inline":
                lines.append(
                    "timeout    an objective that reports no steps is not timed out in this "
                    "process; Ray's workers end one"
                )
            return [*lines, "time       not known, since the objective reports no steps"]
        child = f"time       about {duration(self.seconds_a_child)} a child on one worker"
        if left and s.ray_address is None:
            share = 1.0 if cohorts is None else cohorts.cost
            workers = _workers(Machinery.of(s), left + self.beside_left)
            total = self.seconds_a_child * (left * share + self.beside_left) / workers
            child += f", {duration(total)} for all on {workers}; dearer functions take longer"
        return [*lines, child]


def make_plan(
    config: SearchOptions, objects: Mapping[str, Any] | None = None, *, dry: bool = False
) -> Plan:
    """Resolve the settings (given, else the run's own, else the preset's) and check them. A `dry`
    plan is only shown, so another driver may hold the run."""
    objects = objects or {}
    run = Run(Path(config.run or _default_run(config, objects)))
    stored = run.settings
    if stored.pop("skip_symmetric", "off") == "on":
        raise RunError(
            f"{run.path} was made with --skip-symmetric on, an option that is gone: the functions "
            "that it left out train differently. The run can be read; search in another folder."
        )
    settings = resolve({**vars(config), **objects}, stored)
    external = command_of(settings.strategy) is not None
    if external and config.strategy is None:
        raise UsageError(
            f"{run.path} was searched with {settings.strategy!r}; say --strategy again, since no "
            "command is taken from a run's folder"
        )
    settings = replace(settings, strategy=normal(settings.strategy, halving=settings.halving))
    check_installed(settings.trackers)
    space = _space(settings)
    extra = extra_operators(space)
    named = all_canonical(settings.baselines, settings.operators, extra)
    # Groups of a later release, and ranks of a run that goes on, may mean others.
    settings = replace(settings, baselines=tuple(FORMS.get(c.key, c.key) for c in named))
    usual = ALWAYS_BESIDE + BESIDE_GATES * (len(space.inputs) > 1)
    beside = tuple(dict.fromkeys((*all_canonical(usual, settings.operators), *named)))
    start = tuple(all_canonical(config.start, settings.operators, extra))
    check_image_size(config.image_size, [settings.dataset])
    in_turns = Machinery.of(settings).in_turns
    evaluator = make_evaluator(settings, extra, in_turns=in_turns)
    aims = aims_from(evaluator.metric, settings.aims, settings.where)
    if aims is not None:
        several_from(settings.strategy, space, settings.seed)
        _check_aims(aims, settings, evaluator)
    elif not external:
        strategy_from(settings.strategy, space, settings.seed)
    race = _race(settings, evaluator)
    settings = replace(settings, racing="off" if race is None else str(race))
    _check_objective(run, evaluator)
    _check_child(run, evaluator)
    run.check_identity(_identity(space, settings, evaluator, aims))
    if not dry:
        run.check_free()
    seconds = warm_up(evaluator, aims)
    finished, done = _done(run)
    left = [candidate for candidate in beside if candidate.key not in finished]
    several = (candidate for candidate in left if len(candidate.functions) > 1)
    for candidate in (space.decode(space.digits(0)), *several, *start):
        evaluator.build(candidate.key)  # raises where it has no place in the child
    gates = len(space.inputs) > 1 or any(map(is_gate, (*left, *start)))
    parameters = gate_parameters(evaluator) if gates else None
    found = _survey(space, settings)
    return Plan(
        run,
        settings,
        space,
        evaluator,
        found,
        seconds,
        race,
        beside,
        start,
        len(left),
        done,
        parameters,
        aims,
    )


def _check_aims(aims: Aims, settings: Settings, evaluator: AnyEvaluator) -> None:
    """Raises UsageError for what does not go with several aims, and for a cost that nobody would
    measure."""
    for option, value in (("confirm", settings.confirm), ("racing", settings.racing)):
        if value != "off":
            raise UsageError(
                f"--{option} goes by one score, and this search has {aims}; leave one of the two "
                "out"
            )
    if not isinstance(evaluator, Evaluator):
        return  # what it returns, its first steps will say
    if others := [name for name in aims.names if name != COST.name]:
        raise UsageError(
            f"--where {others[0]}: a child of a data set has {evaluator.metric.name} and cost; "
            "give limits of these"
        )
    if COST.name not in aims.names:
        return
    if evaluator.recipe.steps < ENOUGH:
        raise UsageError(
            f"cost is measured in trainings of {ENOUGH} steps or more, and --steps is "
            f"{evaluator.recipe.steps}; train longer, or leave cost out"
        )
    if torch.cuda.is_available():
        raise UsageError(
            "cost is measured on a processor alone, and trainings here are on a GPU; set "
            "CUDA_VISIBLE_DEVICES to nothing, or leave cost out"
        )


def _check_objective(run: Run, evaluator: AnyEvaluator) -> None:
    """Raises UsageError where the objective is missing that the run was made with, RunError where
    it is not what it was."""
    before = run.objective
    if before is None:
        return
    if not isinstance(evaluator, ObjectiveEvaluator):
        raise UsageError(
            f"{run.path} was made with the objective {before}, an object of Python; search there "
            "with objective=..., or name it: --objective my_module:train"
        )
    now, name = evaluator.objective.digest, evaluator.name
    if before != now and before.rpartition("-")[0] == name:
        raise RunError(
            f"the objective {name} has changed since {run.path} was made (its source, or a value "
            f"that it uses: {before} then, {now} now), and scores of the two do not compare; undo "
            "the change, or search in another folder"
        )


def _check_child(run: Run, evaluator: AnyEvaluator) -> None:
    """Raises RunError where a ready model is not what it was."""
    before = run.child
    if before is None or not isinstance(evaluator, Evaluator) or not evaluator.child.is_ready:
        return
    now, name = evaluator.child.digest, evaluator.name
    if before != now and before.rpartition("-")[0] == name:
        raise RunError(
            f"the child {name} has changed since {run.path} was made (its structure, the shapes of "
            "its parameters or the values of those that no training draws anew, match, or its "
            f"source: {before} then, {now} now), and scores of the two do not compare; undo the "
            "change, or search in another folder"
        )


def _space(settings: Settings) -> Space:
    space = space_from(settings.space) if isinstance(settings.space, str) else settings.space
    if not hasattr(space, "decode"):
        raise UsageError(f"space {space!r} must be a name, such as 'tiny', or a Space")
    if settings.ties == "on":
        space = with_ties(space)
    if settings.groups is None:
        return space
    has = getattr(space, "groups", settings.groups)
    if has != settings.groups:
        raise UsageError(
            f"--groups {settings.groups}: {space.spec} has {has} groups; say one number"
        )
    return in_groups(space, settings.groups)


def _identity(
    space: Space, settings: Settings, evaluator: AnyEvaluator, aims: Aims | None
) -> dict[str, Any]:
    return {
        "space": space.spec,
        "seed": settings.seed,
        "screen": settings.screen,
        **({} if aims is None else aims.to_config()),
        "protocol": evaluator.protocol,
    }


def _done(run: Run) -> tuple[set[str], int]:
    """The functions that have trained, and how many the budget counts."""
    try:
        with closing(run.store(readonly=True)) as store:
            rows = store.rows("search")
            done = len(store.trained()) + store.confirming()[1]
    except StoreError:  # there is none yet; one that is damaged is said when the search starts
        return set(), 0
    return {r["expression"] for r in rows if r["status"] not in (None, "rejected")}, done


def _default_run(config: SearchOptions, objects: Mapping[str, Any]) -> Path:
    """runs/SPACE-STRATEGY-DATASET, with an objective's name in the place of the last."""
    settings = resolve({**vars(config), **objects})
    space = _space(settings).name or "custom"
    dataset = settings.dataset
    dataset = Path(dataset).stem if isinstance(dataset, str) else "arrays"
    if settings.objective is not None:
        dataset = objective_from(settings.objective).name
    strategy = short(normal(settings.strategy, halving=settings.halving))
    name = f"{space}-{strategy}-{dataset}"
    return RUNS / re.sub(r"[^A-Za-z0-9._+=,-]+", "_", name)


def _race(settings: Settings, evaluator: AnyEvaluator) -> RaceRules | None:
    race = race_rules(settings.racing, evaluator.recipe.steps, evaluator.metric)
    if race is None:
        return None
    if rungs(settings.strategy) is not None:
        raise UsageError("--racing and --halving both leave functions behind; choose one of them")
    if race.by == "score" and evaluator.kind == "objective":
        raise UsageError(
            f"--racing {race}: an objective reports its training loss alone; race by that, as "
            f"{EXAMPLE}"
        )
    last = race.milestones[-1][0]
    if last >= evaluator.recipe.steps:
        raise UsageError(
            f"--racing {race} has a milestone at step {last}, but children train for "
            f"{evaluator.recipe.steps} steps; give earlier milestones, as {race.name}:"
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


def _workers(machinery: Machinery, trainings: int) -> int:
    """How many train on this machine."""
    if machinery.executor == "inline":
        return 1
    most, _ = machinery.most(trainings)
    workers = machinery.workers or local_workers(machinery.workers_per_gpu)
    return min(workers, most or workers)
