"""The one loop on stub children: each function once, budgets, repeats, and resuming after any
death."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import pytest

from actsearch.controller.strategies import strategy_from
from actsearch.controller.strategy import Proposal
from actsearch.results.leaderboard import furthest, leaderboard
from actsearch.results.metrics import METRICS
from actsearch.results.records import Outcome, Trial
from actsearch.results.store import Store
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.fingerprint import fingerprint
from actsearch.search_space.candidate import OneFunction
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES, Space, everything, space_from
from actsearch.search_space.survey import describe, describe_all, survey
from actsearch.searching.identity import Candidates, Level
from actsearch.searching.live import lines, plain_line
from actsearch.searching.loop import STOPPED, run_trials
from actsearch.searching.progress import Progress
from actsearch.searching.proposals import Proposals
from actsearch.searching.sources import FixedSource, StrategySource, asking
from actsearch.studies.known_results import Table
from actsearch.workers.executor import Beat, Executor, InlineExecutor
from actsearch.workers.thread_executor import ThreadExecutor

from .conftest import SMALL

DISTINCT = len(survey(everything(SMALL), screening=False).distinct)


def accuracy(expression: str) -> float:
    return (sum(map(ord, expression)) % 97) / 100


class Child:
    """A stub evaluation that remembers what it trained and dies at the `die_at`-th training."""

    def __init__(self, die_at: int | None = None) -> None:
        self.trained: Counter[str] = Counter()
        self.trials: Counter[int] = Counter()
        self.die_at = die_at

    def __call__(self, trial: Trial, beat: Beat) -> Outcome:
        if sum(self.trained.values()) == self.die_at:
            raise KeyboardInterrupt
        self.trained[trial.subject] += 1
        self.trials[trial.id] += 1
        if "sigmoid" in trial.subject:
            return Outcome("diverged", "loss nan at step 3", step=3)
        return Outcome("ok", val_score=accuracy(trial.subject))


def level(share: float) -> Level:
    steps = round(1000 * share)
    return Level("search", "p") if share == 1.0 else Level("rung", f"p{steps}")


def source(
    store: Store,
    space: Space = SMALL,
    strategy: str = "exhaustive",
    budget: int | None = None,
    patience: int = 1000,
    screening: bool = False,
    **options: Any,
) -> StrategySource:
    for share in (1 / 4, 1 / 3, 1 / 2):
        steps = round(1000 * share)
        store.add_protocol(level(share).protocol, {"recipe": {"steps": steps}})
    made = strategy_from(strategy, space, 0)
    proposals = Proposals(store, made, strategy, Candidates(store, space), level)
    chain = asking(proposals, budget=budget, patience=patience, screening=screening)
    return StrategySource(proposals, chain, **options)


def run(store: Store, child: Child, **options: Any) -> str:
    progress = Progress("t", "w", None)
    return run_trials(store, source(store, **options), InlineExecutor(child), progress)


@pytest.mark.parametrize("strategy", ["exhaustive", "random"])
def test_each_function_is_trained_once_however_often_it_is_proposed(
    store: Store, strategy: str
) -> None:
    child = Child()
    assert run(store, child, strategy=strategy) == "space exhausted"
    assert len(child.trained) == DISTINCT
    assert set(child.trained.values()) == {1}
    assert store.proposals() == SMALL.size


@pytest.mark.parametrize("strategy", ["exhaustive", "random", "ppo:batch_size=20"])
def test_functions_are_prepared_before_they_are_trained(store: Store, strategy: str) -> None:
    prepared: list[str] = []
    late: list[str] = []

    def child(trial: Trial, beat: Beat) -> Outcome:
        if trial.subject not in prepared:
            late.append(trial.subject)
        return Outcome("ok", val_score=accuracy(trial.subject))

    options: dict[str, Any] = {"space": SPACES["two-units"], "strategy": strategy, "budget": 30}
    made = source(store, prepare=lambda exprs: prepared.extend(map(str, exprs)), **options)
    run_trials(store, made, InlineExecutor(child), Progress("t", "w", None))
    assert len(prepared) == len(set(prepared)) >= 28
    assert len(late) <= (2 if strategy.startswith("ppo") else 0)  # the first of its batches


def test_functions_looked_at_together_are_what_they_are_alone() -> None:
    space = SPACES["two-units"]
    points = [space.digits(i * 104_729) for i in range(40)]
    forms = [space.decode(point).canonical("guarded") for point in points]
    assert describe_all(forms) == [describe(form) for form in forms]


def test_every_proposal_is_told_the_reward_of_its_function(store: Store) -> None:
    told: dict[int, float | None] = {}
    made = source(store)
    tell = made.proposals.strategy.tell

    def note(proposal: Any, reward: float | None) -> None:
        told[proposal.number] = reward
        tell(proposal, reward)

    made.proposals.strategy.tell = note  # type: ignore[method-assign]
    run_trials(store, made, InlineExecutor(Child()), Progress("t", "w", None))
    assert len(told) == SMALL.size
    for number, reward in told.items():
        expression = str(canonical(SMALL.expression(SMALL.digits(number))))
        failed = "sigmoid" in expression
        assert reward == (None if failed else accuracy(expression))
    assert store.open_proposals("exhaustive") == []


def test_the_budget_is_the_total_and_a_resumed_run_goes_on_to_it(store: Store) -> None:
    first, second = Child(), Child()
    assert run(store, first, budget=3) == "budget spent"
    assert sum(first.trained.values()) == 3
    assert run(store, second, budget=3) == "budget spent"
    assert not second.trained
    assert run(store, second, budget=5) == "budget spent"
    assert sum(second.trained.values()) == 2
    assert not first.trained.keys() & second.trained.keys()


def test_a_function_trained_beside_the_search_is_not_trained_again(store: Store) -> None:
    beside = store.submit("search", "mul(2, x)", "p", 0, label="twice x")
    child = Child()
    made = source(store, first=[beside])
    run_trials(store, made, InlineExecutor(child), Progress("t", "w", None))
    assert child.trained["mul(2, x)"] == 1
    assert len(child.trained) == DISTINCT


def test_rejected_functions_are_stored_with_their_reason_and_cost_no_budget(store: Store) -> None:
    space = space_from("units=1;unary=identity,neg,tanh;binary=add,sub")
    child = Child()
    found = survey(everything(space))
    assert found.rejected == {"affine in x": 2, "constant": 1}  # 2x, -2x, and 0
    budget = len(found.distinct)
    assert run(store, child, space=space, screening=True, budget=budget) == "budget spent"
    assert len(child.trained) == len(store.trained()) == budget
    rejected = [row for row in store.rows("search") if row["status"] == "rejected"]
    assert {"constant"} < {row["reason"] for row in rejected}
    assert not child.trained.keys() & {row["expression"] for row in rejected}


def test_what_only_its_values_show_to_be_the_same_is_not_trained_again(store: Store) -> None:
    space = space_from("units=1;unary=exp,tanh,relu,sinh;binary=max")
    child = Child()
    run(store, child, space=space)
    merged = {"max(exp(x), tanh(x))", "max(exp(x), relu(x))", "max(exp(x), sinh(x))"}
    trained = merged & child.trained.keys()
    assert len(trained) == 0  # exp(x), from max(exp(x), exp(x)), came first
    assert {store.merged_into(e) for e in merged} == {"exp(x)"}
    assert store.merged_into("tanh(x)") == "tanh(x)"


def test_every_function_of_a_symmetry_class_is_trained(store: Store) -> None:
    """Members of a class train differently."""
    space = space_from("units=1;unary=identity,neg,tanh;binary=mul")
    child = Child()
    run(store, child, space=space)
    assert {"square(x)", "neg(square(x))"} <= set(child.trained)
    assert len(child.trained) > survey(everything(space), screening=False).symmetry_classes


def test_what_the_screen_iterates_over_never_changes() -> None:
    """It draws in a thread of its own, while the loop adds."""
    progress = Progress("t", "w", None, beside={"relu", "swish"})
    for i, label in enumerate(("relu", "", "swish", "", "")):
        before = progress.last, progress.best, progress.baselines
        copies = tuple(before[0]), tuple(before[1]), dict(before[2])
        trial = Trial(i, "search", label or "tanh(x)", "p", 0, label=label)
        progress.add(trial, Outcome("ok", val_score=i / 10))
        assert (tuple(before[0]), tuple(before[1]), dict(before[2])) == copies
        assert progress.last[-1].trial == i
    assert [scored.trial for scored in progress.best] == [4, 3, 1]
    assert [scored.trial for scored in progress.last] == [3, 4]
    assert {name: b.score for name, b in progress.baselines.items()} == {"relu": 0.0, "swish": 0.2}


@pytest.mark.parametrize(("metric", "said"), [("accuracy", "20.00 %"), ("BLEU", "20.00 BLEU")])
def test_the_screen_says_what_a_score_is(metric: str, said: str) -> None:
    progress = Progress("t", "w", None, METRICS[metric], beside={"relu"})
    for label in ("relu", ""):
        trial = Trial(1, "search", label, "p", 0, label=label, formula="tanh(x)")
        progress.add(trial, Outcome("ok", val_score=0.2))
    _, _, _, best, baselines, last = lines(progress)
    assert best.startswith(f" best  {said}  tanh(x)")
    assert baselines.strip() == f"relu {said}"
    assert f"tanh(x) {said}" in last
    assert f"best {said} tanh(x)" in plain_line(progress)


def test_the_screen_and_the_plain_lines_say_what_the_search_waits_for() -> None:
    progress = Progress("t", "w", None)
    before, plain = lines(progress), plain_line(progress)
    progress.trouble = "Ray's head at h:1 has been silent since 09:14:05 (23 s)"
    assert lines(progress) == [*before, f" {progress.trouble}"]
    assert plain_line(progress) == f"{plain}; {progress.trouble}"


def test_what_an_executor_waits_for_reaches_the_screen(store: Store) -> None:
    shown: list[str] = []

    class Waiting(InlineExecutor):
        trouble = "the head is silent"

    progress = Progress("t", "w", None)
    source = FixedSource([store.submit("search", "relu(x)", "p", 0)])
    run_trials(store, source, Waiting(Child()), progress,
               callbacks=[lambda trial, outcome, seen: shown.append(seen.trouble)])  # fmt: skip
    assert shown == ["the head is silent"]


def test_nothing_new_in_patience_proposals_ends_the_search(store: Store) -> None:
    run(store, Child(), strategy="random")
    assert run(store, Child(), patience=5) == "nothing new in 5 proposals"


def test_another_strategy_on_the_same_run_knows_what_is_known(store: Store) -> None:
    run(store, Child(), strategy="exhaustive", budget=4)
    second = Child()
    run(store, second, strategy="random")
    assert sum(second.trained.values()) == DISTINCT - 4


def test_what_one_strategy_proposed_and_another_saw_to_its_end_is_told_on_return(
    store: Store,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, Child(die_at=2), strategy="exhaustive", budget=10)
    assert len(store.open_proposals("exhaustive")) >= 1
    second = Child()
    assert run(store, second, strategy="random", budget=5) == "budget spent"
    assert len(store.trained()) == 5
    assert len(store.open_proposals("exhaustive")) >= 1
    back = source(store, strategy="exhaustive", budget=5)
    assert store.open_proposals("exhaustive") == []
    assert back.ended == "budget spent"
    assert source(store, strategy="exhaustive", budget=6).ended == ""


def all_proposals(store: Store) -> list[tuple[Any, ...]]:
    query = "SELECT number, digits, share, trial, reward FROM proposals ORDER BY number"
    return [tuple(row) for row in store._db.execute(query)]


@pytest.mark.parametrize(
    "strategy",
    [
        "exhaustive",
        "random",
        "evolution:population=6,tournament=3",
        "ppo:batch_size=6",
        "ppo:batch_size=4,mode=async",
        "surrogate:initial=8,pool=20",
        "random+halving:eta=2,cohort=8",
        "ppo:batch_size=5+halving:eta=3,rungs=2,cohort=9",
        "ppo:batch_size=3,initial=3,pool=20,dreams=1+halving:eta=2,rungs=3,cohort=8",
    ],
)
def test_killed_and_resumed_anywhere_the_run_ends_as_the_unbroken_one(
    tmp_path: Path, strategy: str
) -> None:
    space = SPACES["tiny"]

    def opened(name: str) -> Store:
        store = Store(tmp_path / f"{name}.sqlite", create=True)
        store.add_protocol("p", {})
        return store

    unbroken = opened("unbroken")
    run(unbroken, Child(), space=space, strategy=strategy, budget=24)
    broken, trained = opened("broken"), Counter[int]()
    for die_at in (0, 1, 3, 7, 2, 0):
        child = Child(die_at)
        with pytest.raises(KeyboardInterrupt):
            run(broken, child, space=space, strategy=strategy, budget=24)
        trained += child.trials
        broken.close()
        broken = opened("broken")
    child = Child()
    assert run(broken, child, space=space, strategy=strategy, budget=24) == "budget spent"
    trained += child.trials
    assert set(trained.values()) == {1}
    assert unbroken.strategy(strategy) == broken.strategy(strategy)
    assert all_proposals(unbroken) == all_proposals(broken)
    assert unbroken.health(strategy) == broken.health(strategy)
    tables = [
        [(e.rank, e.expression, e.status, e.val_score) for e in leaderboard(s.rows("search"))]
        for s in (unbroken, broken)
    ]
    assert tables[0] == tables[1]
    unbroken.close()
    broken.close()


def test_a_cohort_is_halved_in_shorter_trainings_and_only_its_best_are_ranked(store: Store) -> None:
    child = Child()
    space, name = SPACES["tiny"], "random+halving:eta=2,cohort=8"
    assert run(store, child, space=space, strategy=name, budget=20) == "budget spent"
    rungs = store.rows("rung")
    steps = Counter(row["steps"] for row in rungs)
    functions = {row["expression"] for row in rungs if row["status"] != "rejected"}
    assert len(functions) == 20  # what the budget counts
    assert steps[250] == 20
    assert 8 <= steps[500] <= 11  # cohorts of 8, 8 and 4, a repeat in a rung costing nothing
    ranked = store.rows("search")
    assert 4 <= len(ranked) <= 5
    assert {row["expression"] for row in ranked} <= functions
    assert store.open_proposals(name) == []
    # The last cohort was closed by the end of the budget; a larger one opens the next.
    assert run(store, Child(), space=space, strategy=name, budget=20) == "budget spent"
    assert run(store, Child(), space=space, strategy=name, budget=24) == "budget spent"
    assert len(store.trained()) == 24


@pytest.mark.parametrize("executor", [InlineExecutor, lambda child: ThreadExecutor(child, 3)])
@pytest.mark.parametrize("strategy", ["ppo:batch_size=3", "evolution:population=4,tournament=2"])
def test_the_rungs_of_a_search_are_those_that_it_prints(
    store: Store, strategy: str, executor: Callable[[Child], Executor]
) -> None:
    name = strategy + "+halving:eta=2,rungs=3,cohort=8"
    made = source(store, SPACES["two-units"], name, budget=30)
    progress = Progress("t", "w", None)
    assert run_trials(store, made, executor(Child()), progress) == "budget spent"
    ran = [share for _, _, share, _, _ in all_proposals(store)]
    found = [(share, len(list(group))) for share, group in groupby(ran)]
    *whole, last = [found[i : i + 3] for i in range(0, len(found), 3)]
    assert whole
    assert all(cohort == [(0.25, 8), (0.5, 4), (1.0, 2)] for cohort in whole)
    n = last[0][1]  # what the budget leaves
    assert last == [(0.25, n), (0.5, max(1, n // 2)), (1.0, max(1, n // 4))]
    assert len(store.trained()) == 30
    steps = Counter(row["steps"] for row in store.rows("rung"))
    assert 30 <= steps[250] <= len([share for share in ran if share == 0.25])
    assert store.open_proposals(name) == []


def test_what_left_in_a_rung_stands_below_the_ranked_with_its_score(store: Store) -> None:
    run(store, Child(), space=SPACES["tiny"], strategy="random+halving:eta=2,cohort=8", budget=16)
    entries = leaderboard(furthest(store.rows("search"), store.rows("rung")))
    ranked = [e for e in entries if e.rank is not None]
    dropped = [e for e in entries if e.status == "dropped"]
    assert len(entries) == len({e.expression for e in entries})
    assert {e.status for e in ranked} == {"ok"}
    assert dropped
    best = dropped[0]
    assert best.reason.startswith("left after 500 steps with validation accuracy 0.")
    assert entries.index(best) == len(ranked)


@pytest.mark.parametrize("strategy", ["ppo:batch_size=5", "evolution:population=4,tournament=2"])
def test_the_health_of_a_strategy_is_stored_and_shown(store: Store, strategy: str) -> None:
    progress = Progress("t", "w", None)
    made = source(store, SPACES["tiny"], strategy, budget=30)
    run_trials(store, made, InlineExecutor(Child()), progress)
    stored = store.health(strategy)
    assert len(stored) >= 4
    assert [row["proposals"] for row in stored] == sorted(row["proposals"] for row in stored)
    assert {"reward", "repeats"} <= stored[-1].keys()
    assert 0 < stored[-1]["repeats"] < 1
    assert made.tally.repeats == store.proposals() - store.proposed_trials() > 0
    [line] = [line for line in lines(progress, 100) if line.startswith(" controller")]
    assert f"reward {stored[-1]['reward']:.3f}" in line
    if strategy.startswith("ppo"):
        assert {"entropy", "KL", "clipped"} <= stored[-1].keys()
        assert "KL" in line


def test_a_stop_is_heard_while_the_strategy_only_repeats_itself(store: Store) -> None:
    run(store, Child(), strategy="random")
    made = source(store, strategy="exhaustive", patience=10**9)
    asked = 0

    def ask(n: int) -> list[Proposal]:
        nonlocal asked
        asked += 1
        return [Proposal(asked - 1, SMALL.digits(0))]

    made.proposals.strategy.ask = ask  # type: ignore[method-assign]
    executor, progress = InlineExecutor(Child()), Progress("t", "w", None)
    reason = run_trials(store, made, executor, progress, should_stop=lambda: asked >= 25)
    assert reason == STOPPED
    assert asked == 25


def test_a_stop_lets_the_running_child_finish_and_starts_no_other(store: Store) -> None:
    child = Child()
    progress = Progress("t", "w", None)
    reason = run_trials(
        store,
        source(store),
        InlineExecutor(child),
        progress,
        should_stop=lambda: sum(child.trained.values()) >= 2,
    )
    assert reason == STOPPED
    assert sum(child.trained.values()) == 2
    assert len(store.trained()) == 2


def test_a_fixed_list_of_trials_is_trained_to_its_end(store: Store) -> None:
    trials = [store.submit("reevaluate", "relu(x)", "p", seed) for seed in range(3)]
    progress = Progress("t", "w", 3)
    assert run_trials(store, FixedSource(trials), InlineExecutor(Child()), progress)
    assert progress.done == 3
    assert all(store.outcome(t) is not None for t in trials)


def test_progress_counts_what_the_store_holds(store: Store) -> None:
    progress = Progress("t", "w", DISTINCT)
    run_trials(store, source(store), InlineExecutor(Child()), progress)
    loaded = Progress("t", "w", DISTINCT)
    loaded.load(store.rows("search"))
    assert progress.counts == loaded.counts
    assert [s.formula for s in progress.best] == [s.formula for s in loaded.best]
    assert progress.done == DISTINCT
    assert progress.repeats == SMALL.size - DISTINCT


class Killed(BaseException):
    pass


class DiesAt:
    """A connection that dies before its n-th statement, as where the driver is killed."""

    def __init__(self, real: Any, n: int) -> None:
        self._real, self._left = real, n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, *args: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Killed
        return self._real.execute(*args)


@pytest.mark.parametrize("strategy", ["evolution:population=6,tournament=3", "exhaustive"])
def test_killed_between_any_two_statements_a_run_ends_as_an_unbroken_one(
    tmp_path: Path, strategy: str
) -> None:
    def opened(name: str) -> Store:
        store = Store(tmp_path / f"{name}.sqlite", create=True)
        store.add_protocol("p", {})
        return store

    options: dict[str, Any] = {"space": SPACES["tiny"], "strategy": strategy, "budget": 12}
    unbroken, chance = opened("unbroken"), Random(0)
    run(unbroken, Child(), **options)
    for _ in range(80):
        store = opened("broken")
        real = store._db
        store._db = DiesAt(real, chance.randint(10, 60))  # type: ignore[assignment]
        with suppress(Killed):
            run(store, Child(), **options)
        real.close()  # what was not committed is lost
    broken = opened("broken")
    assert run(broken, Child(), **options) == "budget spent"
    assert broken.strategy(strategy) == unbroken.strategy(strategy)
    assert all_proposals(broken) == all_proposals(unbroken)
    unbroken.close()
    broken.close()


def test_patience_counts_repeats_in_a_row_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(store, SPACES["tiny"], patience=3)
    order = [SPACES["tiny"].digits(i) for i in (1, 3, 5, 6) for _ in range(3)]

    def ask(n: int) -> list[Proposal]:
        at = made.proposals.made
        return [Proposal(at, order[at])] if at < len(order) else []

    monkeypatch.setattr(made.proposals.strategy, "ask", ask)
    monkeypatch.setattr(made.proposals.strategy, "peek", lambda n: ())
    child = Child()
    run_trials(store, made, InlineExecutor(child), Progress("t", "w", None))
    assert len(child.trained) == 4


def test_equal_keys_are_merged_only_where_the_second_grid_agrees(store: Store) -> None:
    one, other = parse("sinh(x)"), parse("cosh(x) * tanh(x)")  # guarded, apart beyond the clamps
    assert fingerprint(one).key == fingerprint(other).key
    child = Child()
    run(store, child, space=space_from("units=1;unary=identity,sinh,cosh,tanh;binary=mul,min"))
    assert {"mul(cosh(x), tanh(x))", "sinh(x)"} <= child.trained.keys()
    table = Table(SPACES["one-unit"], {OneFunction(one): {1.0: 0.5}}, "guarded")
    assert table.rows([OneFunction(other)]) == [None]
