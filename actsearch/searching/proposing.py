"""propose(): functions for a search that runs, or for the next one, through the run's folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actsearch.child_models.outcomes import hash_of
from actsearch.errors import UsageError
from actsearch.functions import all_canonical
from actsearch.results.leaderboard import Entry
from actsearch.results.records import Outcome, Trial
from actsearch.run import Run
from actsearch.search_space.baselines import FORMS
from actsearch.search_space.candidate import Candidate, is_gate
from actsearch.search_space.operators import Op
from actsearch.search_space.space import Space, extra_operators
from actsearch.searching.budget import on_their_way
from actsearch.searching.building import make_evaluator
from actsearch.searching.identity import Candidates, Level, space_of
from actsearch.searching.inbox import Inbox
from actsearch.settings import resolve


@dataclass(frozen=True)
class Answer:
    """What became of a formula that was proposed; `new` where a search is to train it."""

    formula: str
    text: str
    new: bool = False


def propose(
    run: Run | str | Path, formulas: Iterable[str], *, space: Space | None = None
) -> list[Answer]:
    """Have the search in a run train these formulas, names or RUN#RANK; an answer for each. What
    the run knows is answered with that, what screening rejects with its reason, and the others
    wait in the run's folder. `space` is needed where the run's has operators of your own.

    Raises UsageError for a formula that the run cannot take, and then none is proposed.
    """
    run = Run.open(run.path if isinstance(run, Run) else run)
    run.check_writable()
    settings, identity = run.settings, run.config.get("identity", {})
    if not settings:
        raise UsageError(f"{run.path} has no config.json that says how it trains; search there")
    call = "actsearch.propose(..., space=space) takes formulas for it"
    space = space or space_of(run, settings["space"], call)
    operators, extra = settings["operators"], extra_operators(space)
    named = all_canonical(formulas, operators, extra)
    _check_fits(named, settings, extra)
    inbox, level = Inbox(run, extra), Level("search", hash_of(identity["protocol"]))
    with closing(run.store(readonly=True)) as store:
        candidates = Candidates(store, space, operators, extra, settings["seed"])
        waiting = inbox.waiting()
        ranked: dict[str, Entry] = {}

        def known(trial: Trial) -> str:
            outcome = store.outcome(trial)
            if outcome is None:
                return "waits to be trained, or is in training"
            if trial.subject not in ranked:  # the search that runs may have ended it just now
                ranked.update({entry.expression: entry for entry in run.leaderboard()})
            return _known(outcome, ranked[trial.subject])

        def answer(candidate: Candidate) -> Answer:
            name = FORMS.get(candidate.key, candidate.formula)
            trial, found = candidates.look(candidate, level)
            if trial is not None:
                return Answer(name, known(trial))
            if found is not None and found.rejected and settings["screen"] == "on":
                return Answer(name, f"rejected: {found.rejected.reason}")
            if candidate.key in waiting:
                return Answer(name, "was proposed before and waits")
            return Answer(name, "proposed", new=True)

        answers = {candidate: answer(candidate) for candidate in named}
    inbox.put(candidate for candidate, answered in answers.items() if answered.new)
    return list(answers.values())


def _known(outcome: Outcome, entry: Entry) -> str:
    if outcome.val_score is None:
        return f"{outcome.status}: {outcome.reason}"
    score = f"{entry.metric.column('val')} {entry.metric.text(outcome.val_score)}"
    return f"{score}, rank {entry.rank}"


def who_takes_them(run: Run) -> str:
    """A sentence on when what waits in a run will be trained."""
    path, holder, budget = shlex.quote(str(run.path)), run.driver(), run.settings.get("budget")
    with closing(run.store(readonly=True)) as store:
        charged = len(store.trained() | on_their_way(store)) + store.confirming()[0]
    if budget is not None and charged >= budget:
        more = budget + len(Inbox(run).waiting())
        return (
            f"The budget of {budget:,} is spent; what is proposed is kept for "
            f"'actsearch search {path} --budget {more}'."
        )
    if holder is None:
        return f"No search runs in {run.path}; what is proposed is kept for the next one there."
    return f"{holder} trains what is proposed before what its strategy proposes."


def _check_fits(
    candidates: Iterable[Candidate], settings: Mapping[str, Any], extra: tuple[Op, ...]
) -> None:
    """Raises ValueError for a gate, or for groups of layers, for which the child has no place. An
    object of Python is not here to be asked; there the training says so."""
    special = [c for c in candidates if is_gate(c) or len(c.functions) > 1]
    if special and settings.get("child") and settings.get("dataset"):
        evaluator = make_evaluator(resolve({}, settings), extra)
        for candidate in special:
            evaluator.build(candidate.key)
