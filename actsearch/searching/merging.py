"""merge(): what other machines have found, into one run.

Runs of one search, with the same space, seed and protocol, may have trained different functions, or
the same. A trial is taken as it is, with its times and its machine. Of a trial that both have, that
of the run stays. A function that was spelled otherwise elsewhere is one function still. Strategies
keep what they were told; what was merged they learn as they propose it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actsearch.errors import RunError
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.candidate import candidate_from, same_candidate
from actsearch.search_space.space import Space, extra_operators
from actsearch.searching.identity import space_of

WHERE = ("host", "device", "versions")  # a processor computes the same to the last digit there
SCORES = ("status", "val_score", "test_score")


@dataclass
class Taken:
    """What came of one of the others: trials by kind, how many were known already, and how far
    the scores of those that two machines have trained lie apart at most."""

    path: Path
    kinds: Counter[str] = field(default_factory=Counter[str])
    known: int = 0
    apart: float = 0.0
    other_status: int = 0

    def text(self, run: Run) -> str:
        parts = [f"{n:,} of {kind}" for kind, n in self.kinds.items()]
        total = f"{self.kinds.total():,} trial{'s' * (self.kinds.total() != 1)}"
        said = [f"{self.path}: {total} taken" + f" ({', '.join(parts)})" * bool(parts)]
        if self.known:
            said.append(f"{self.known:,} known already, of which those of {run.path} stay")
        if self.apart:
            said.append(f"scores of one trial differ by at most {run.metric.distance(self.apart)}")
        if self.other_status:
            said.append(f"{self.other_status:,} trained on one machine and failed on the other")
        return "; ".join(said)


def merge(
    run: Run | str | Path, others: Sequence[Run | str | Path], *, space: Space | None = None
) -> list[Taken]:
    """Take the trials of `others`, folders or archives, that `run` has not; where there is no run
    yet, it is made as the first of them. What came of each is returned. `space` is needed where
    the runs' has operators of your own.

    Raises RunError where one is of another search, or where one machine trained a trial twice with
    different results, and then nothing is taken; UsageError where the space must be given;
    StoreError for one that cannot be read.
    """
    target = run if isinstance(run, Run) else Run(Path(run))
    opened = [other if isinstance(other, Run) else Run.open(other) for other in others]
    target.check_writable()
    if target.path.is_file():
        raise RunError(f"{target.path} is a file; name a folder for the merged run")
    if not opened:
        return []
    identity = (target.config or opened[0].config).get("identity")
    for other in opened:
        _check_same(target if target.config else opened[0], other)
    if not identity:
        raise RunError(f"{opened[0].path} has no config.json that says what was searched")
    call = "actsearch.merge(..., space=space) merges its runs"
    extra = extra_operators(space or space_of(opened[0], identity["space"], call))
    with target.locked():
        if not target.config:
            target.write_config(opened[0].config)
        with closing(target.store()) as store, store.transaction():
            operators = identity["protocol"]["operators"]
            found = [_take(store, other, operators, extra, target) for other in opened]
        target.write_top()
    return found


def _check_same(first: Run, other: Run) -> None:
    apart = first.apart(other.config.get("identity", {}))
    if apart:
        was, now = (
            ", ".join(f"{name}={pair[i]}" for name, pair in apart.items()) for i in range(2)
        )
        raise RunError(
            f"{first.path} was made with {was} and {other.path} with {now}; only runs of one "
            "search can be merged"
        )


def _take(store: Store, other: Run, operators: str, extra: Any, target: Run) -> Taken:
    taken = Taken(other.path)
    with closing(other.store(readonly=True)) as theirs:
        for name, description in theirs.protocols():
            store.add_protocol(name, description)
        ours = _functions(store, theirs, operators, extra)
        store.set_beside({ours.get(s, s): out for s, out in theirs.beside().items()}
                         | store.beside())  # fmt: skip
        for trial, outcome in theirs.everything():
            trial["subject"] = ours.get(trial["subject"], trial["subject"])
            known = store.take(trial, outcome)
            if known is None:
                taken.kinds[trial["kind"]] += 1
                continue
            _compare(trial, outcome, known, other, target, taken)
    return taken


def _functions(store: Store, theirs: Store, operators: str, extra: Any) -> dict[str, str]:
    """The subjects here of their functions whose subject here is another."""
    ours: dict[str, str] = {}
    for function in theirs.functions():
        subject = function["subject"]
        into = store.merged_into(subject)
        if into == subject and not store.has_function(subject):
            candidate = candidate_from(subject, extra)
            alike = store.with_fingerprint(function["fingerprint"])
            same = (s for s in alike
                    if same_candidate(candidate_from(s, extra), candidate, operators))  # fmt: skip
            into = next(same, subject)
            if into == subject:
                store.add_function(**function)
            else:
                store.merge(subject, into)
        if into != subject:
            ours[subject] = into
    for subject, into in theirs.merged():
        if store.merged_into(subject) == subject and not store.has_function(subject):
            store.merge(subject, ours.get(into, into))
    return ours


def _compare(
    trial: dict[str, Any],
    outcome: dict[str, Any],
    known: dict[str, Any],
    other: Run,
    target: Run,
    taken: Taken,
) -> None:
    taken.known += 1
    if all(outcome[name] == known[name] for name in SCORES):
        return
    if outcome["device"] == "cpu" and all(outcome[name] == known[name] for name in WHERE):
        raise RunError(
            f"{trial['formula']} with seed {trial['seed']} has "
            f"{_shown(known, target)} in {target.path} and {_shown(outcome, target)} in "
            f"{other.path}, both trained on {outcome['host']} with the same versions; one of the "
            "runs is not what it says, so nothing was merged"
        )
    if outcome["status"] != known["status"]:
        taken.other_status += 1
        return
    pairs = ((outcome[name], known[name]) for name in SCORES[1:])
    gaps = (abs(a - b) for a, b in pairs if a is not None and b is not None)
    taken.apart = max(taken.apart, *gaps, 0.0)


def _shown(outcome: dict[str, Any], run: Run) -> str:
    score = outcome["val_score"]
    return outcome["status"] if score is None else run.metric.text(score)
