"""The conformance suite of the Strategy protocol, and what each strategy promises beyond it."""

from __future__ import annotations

import inspect
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pytest

from actsearch.controller.evolution import Evolution, EvolutionConfig
from actsearch.controller.ppo import PPO
from actsearch.controller.random_search import RandomSearch, permuted
from actsearch.controller.scales import FAILED, fractions, ranks
from actsearch.controller.strategies import STRATEGIES, normal, short, strategy_from
from actsearch.controller.strategy import Digits, Proposal, Reward, Strategy
from actsearch.controller.successive_halving import HalvingConfig, SuccessiveHalving
from actsearch.results.metrics import METRICS
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES, Space
from actsearch.search_space.units import GRID

from .conftest import SMALL, SPACES_OF_KINDS, case

VISITING_ALL = ("exhaustive", "random")


def reward_of(proposal: Proposal) -> float:
    return (sum(proposal.digits) % 7) / 7


def asked(strategy: Strategy, rounds: int, n: int) -> list[Proposal]:
    """The proposals of `rounds` rounds of ask and tell."""
    seen: list[Proposal] = []
    for _ in range(rounds):
        proposals = list(strategy.ask(n))
        for proposal in reversed(proposals):
            strategy.tell(proposal, reward_of(proposal))
        seen += proposals
    return seen


NAMES = [
    *STRATEGIES,
    "ppo:model=none",
    "ppo:mode=async,batch_size=4,model=none",
    "ppo:initial=3,batch_size=4,pool=30,dreams=1",
    "ppo:mode=async,initial=3,batch_size=4,pool=30,dreams=1",
    "surrogate:initial=2,pool=20,explore=0.3",
    "evolution:population=4,tournament=2",
    "ppo:batch_size=3+halving:eta=2,cohort=4",
    "exhaustive+halving:eta=2,rungs=2,cohort=3",
]
# Their models or updates take seconds in a space.
DEAR = (
    "ppo:model=none",
    "ppo:mode=async,batch_size=4,model=none",
    "surrogate",
    "ppo",
    "ppo:initial=3,batch_size=4,pool=30,dreams=1",
    "ppo:mode=async,initial=3,batch_size=4,pool=30,dreams=1",
    "surrogate:initial=2,pool=20,explore=0.3",
)
FEW = ("groups", "gates")
LARGE_POOLS = ("surrogate", "ppo")  # a tenth of a second for each choice


def in_every_space(test: Callable[[str, Space], None]) -> Callable[[str, Iterable[str]], None]:
    """A test for each strategy, in which every kind of space is a case."""

    def every(strategy_name: str, kinds: Iterable[str]) -> None:
        for kind in kinds:
            with case(kind):
                test(strategy_name, SPACES_OF_KINDS[kind])

    every.__name__ = test.__name__
    kinds = {name: FEW if name in DEAR else (*SPACES_OF_KINDS,) for name in NAMES}
    kinds |= dict.fromkeys(LARGE_POOLS, FEW[-1:])
    params = [pytest.param(name, kinds[name], id=name) for name in NAMES]
    params += [
        pytest.param(
            name,
            [kind for kind in SPACES_OF_KINDS if kind not in kinds[name]],
            id=f"{name} elsewhere",
            marks=pytest.mark.thorough,
        )
        for name in DEAR
    ]
    return pytest.mark.parametrize(("strategy_name", "kinds"), params)(every)


@in_every_space
def test_proposals_are_points_of_the_space_and_numbered_in_order(
    strategy_name: str, any_space: Space
) -> None:
    strategy = strategy_from(strategy_name, any_space, 0)
    proposals = asked(strategy, rounds=4, n=3)
    assert [p.number for p in proposals] == list(range(len(proposals)))
    assert len(proposals) >= 6
    assert all(0 < p.share <= 1 for p in proposals)
    for p in proposals:
        any_space.index(p.digits)  # raises where they are none


@in_every_space
def test_no_more_proposals_than_asked_for(strategy_name: str, any_space: Space) -> None:
    strategy = strategy_from(strategy_name, any_space, 0)
    for n in (1, 5, 2):
        assert len(strategy.ask(n)) <= n
    assert strategy.ask(0) == [] or "halving" in strategy_name


@in_every_space
def test_what_is_settled_comes_whatever_is_told(strategy_name: str, any_space: Space) -> None:
    strategy, blind = (strategy_from(strategy_name, any_space, 5) for _ in range(2))
    met = 0
    for i in range(8):
        coming = list(strategy.peek(5))
        assert len(coming) <= 5
        proposals = list(strategy.ask(3))
        assert proposals == list(blind.ask(3))  # peeking changes nothing
        agree = [p.digits == d for p, d in zip(proposals, coming, strict=False)]
        assert all(agree)
        met += len(agree)
        for proposal in proposals:
            for each in (strategy, blind):
                each.tell(proposal, reward_of(proposal) * (-1) ** i)
    assert (
        met > 0 or strategy_name.startswith(("evolution", "surrogate")) or "async" in strategy_name
    )


@in_every_space
def test_a_restored_strategy_goes_on_as_the_unbroken_one(
    strategy_name: str, any_space: Space
) -> None:
    unbroken = strategy_from(strategy_name, any_space, 5)
    asked(unbroken, rounds=3, n=2)
    state = json.loads(json.dumps(unbroken.state_dict(), allow_nan=False))
    restored = strategy_from(strategy_name, any_space, 99)
    restored.load_state_dict(state)
    assert asked(restored, rounds=9, n=2) == asked(unbroken, rounds=9, n=2)
    assert restored.health() == unbroken.health()


@in_every_space
def test_a_strategy_restored_between_proposal_and_reward_goes_on_as_the_unbroken_one(
    strategy_name: str, any_space: Space
) -> None:
    """Some rewards told, some on their way, at every one of ten steps."""
    unbroken = strategy_from(strategy_name, any_space, 5)
    open_: list[Proposal] = []
    seen: list[tuple[Proposal, ...]] = []
    for step in range(10):
        restored = strategy_from(strategy_name, any_space, 99)
        restored.load_state_dict(json.loads(json.dumps(unbroken.state_dict(), allow_nan=False)))
        both = unbroken, restored
        asks = [tuple(s.ask(3)) for s in both]
        assert asks[0] == asks[1]
        seen.append(asks[0])
        open_ += asks[0]
        told = [open_.pop(step % len(open_)) for _ in range(2) if open_]
        for proposal in told:
            for s in both:
                s.tell(proposal, reward_of(proposal))
        unbroken = restored
    assert sum(map(len, seen)) >= 3


@in_every_space
def test_the_same_seed_gives_the_same_proposals(strategy_name: str, any_space: Space) -> None:
    one, two = (strategy_from(strategy_name, any_space, 3) for _ in range(2))
    assert asked(one, 3, 4) == asked(two, 3, 4)


@pytest.mark.parametrize("name", VISITING_ALL)
@pytest.mark.parametrize("space", [SMALL, SPACES["tiny"]], ids=["small", "tiny"])
def test_every_point_is_visited_once_and_then_none(name: str, space: Space) -> None:
    strategy = strategy_from(name, space, 1)
    seen = [p.digits for p in asked(strategy, rounds=space.size // 5 + 1, n=5)]
    assert sorted(seen) == sorted(space.digits(i) for i in range(space.size))
    assert strategy.exhausted
    assert not strategy.ask(3)


def test_exhaustive_search_counts() -> None:
    proposals = asked(strategy_from("exhaustive", SMALL, 0), rounds=1, n=10)
    assert [SMALL.index(p.digits) for p in proposals] == list(range(10))


@pytest.mark.parametrize("size", [1, 2, 3, 192, 1000])
def test_the_order_of_random_search_is_a_permutation(size: int) -> None:
    assert sorted(permuted(i, size, seed=4) for i in range(size)) == list(range(size))


def test_random_search_depends_on_its_seed_and_spreads_over_the_space() -> None:
    space = SPACES["three-units"]
    points = [
        [space.index(p.digits) for p in RandomSearch(space, seed).ask(400)] for seed in (0, 1)
    ]
    assert set(points[0]).isdisjoint(points[1])
    for drawn in points:  # 400 uniform draws: each quarter holds 100, standard deviation 8.7
        quarters = [sum(4 * i // space.size == q for i in drawn) for q in range(4)]
        assert all(55 < count < 145 for count in quarters)


def test_an_unknown_strategy_is_answered_with_the_near_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'random'"):
        strategy_from("randm", SMALL, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo:learning_rate=1", "unknown option of ppo 'learning_rate'"),
        ("ppo:lr=fast", "ppo:lr=fast needs a number"),
        ("ppo:ent_coef=inf", "ppo:ent_coef=inf needs a number"),
        ("surrogate:kappa=nan", "surrogate:kappa=nan needs a number"),
        ("random:x=1", "random takes no options"),
        ("ppo:mode=turbo", "use sync or async"),
        ("ppo:epochs=0", "must be above 0"),
        ("evolution:tournament=99", "from 1 to the population's 32"),
        ("random+racing", "is not known behind a strategy"),
        ("random+halving:eta=1", "halving:eta=1 must be 2 or more"),
    ],
)
def test_a_wrong_option_is_answered_with_a_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normal(text)


def test_one_strategy_has_one_name() -> None:
    assert normal("ppo: epochs=2 ,lr=0.5") == normal("ppo:lr=0.5,epochs=2") == "ppo:lr=0.5,epochs=2"
    assert normal("ppo:batch_size=0,model=gp") == "ppo"
    assert normal("random", halving=True) == normal("random+halving:eta=4") == "random+halving"
    assert normal("random+halving:eta=3", halving=True) == "random+halving:eta=3"
    assert short("ppo:lr=0.5+halving:eta=3") == "ppo-halving"


def test_every_option_says_where_its_value_comes_from() -> None:
    for config in (*(row.config for row in STRATEGIES.values()), HalvingConfig):
        source = inspect.getsource(config)
        for name in config.__dataclass_fields__:
            assert re.search(rf"\n    {name}: .*\n    \"\"\"\w", source), name


# -- rewards of any metric


def told(strategy: Strategy, reward: Callable[[Proposal], Reward], n: int) -> list[Proposal]:
    """The first `n` proposals, asked for in fours."""
    seen: list[Proposal] = []
    while len(seen) < n:
        proposals = strategy.ask(4)
        for proposal in proposals:
            strategy.tell(proposal, reward(proposal))
        seen += proposals
    return seen


@pytest.mark.parametrize("name", [*STRATEGIES, *(f"{s}+halving:cohort=8" for s in STRATEGIES)])
def test_only_the_order_of_rewards_counts_where_nothing_says_their_range(name: str) -> None:
    """Losses from 1.2 to 8 nats, their squares and their logarithms make the same proposals."""

    def loss(proposal: Proposal) -> float | None:
        part = sum(d * (t + 2) for t, d in enumerate(proposal.digits)) % 11
        return None if part == 0 else 1.2 + 0.68 * (part - 1)

    def proposals(worth: Callable[[float], float]) -> list[Proposal]:
        strategy = strategy_from(name, SPACES["one-unit"], 2, METRICS["loss"])
        return told(strategy, lambda p: None if (x := loss(p)) is None else -worth(x), 44)

    found = proposals(lambda x: x)
    assert found == proposals(lambda x: 1000 * x**2) == proposals(math.log)


def test_ranks_are_shares_of_what_is_below_and_failures_are_under_all() -> None:
    # Of -8, -3, -3, -1 the places are 0, 1 and 2 (on average 1.5), 3; the highest is 3.
    known = [-3.0, None, -8.0, -1.0, -3.0]
    assert ranks([-8.0, -3.0, -1.0, None], known) == [0.0, 0.5, 1.0, FAILED]
    assert ranks([-9.0, 0.0], known) == [0.0, 1.0]  # of rewards that the memory has lost
    assert ranks([5.0], [5.0]) == [0.0]
    assert fractions([0.3, None], []) == [0.3, FAILED]
    assert FAILED < 0


def test_a_failure_is_below_every_loss() -> None:
    """Of 16 the four that trained go on, though their rewards are far below 0; evolution takes its
    parents from those that trained."""
    halving = strategy_from("exhaustive+halving:cohort=16,rungs=2", SPACES["tiny"], 0)
    for i, proposal in enumerate(halving.ask(16)):
        halving.tell(proposal, -1e6 * i if i % 4 == 3 else None)
    assert [p.digits for p in halving.ask(4)] == [SPACES["tiny"].digits(i) for i in (3, 7, 11, 15)]
    evolution = Evolution(SPACES["one-unit"], 0, EvolutionConfig(population=3, tournament=3))
    first = evolution.ask(3)
    for proposal, reward in zip(first, (None, -1e9, None), strict=True):
        evolution.tell(proposal, reward)
    for child in evolution.ask(20):
        assert sum(a != b for a, b in zip(child.digits, first[1].digits, strict=True)) == 1


# -- evolution


def test_the_tournament_takes_the_best_and_the_oldest_dies() -> None:
    config = EvolutionConfig(population=3, tournament=3)
    evolution = Evolution(SPACES["one-unit"], 0, config)
    first = [evolution.ask(1)[0] for _ in range(3)]
    for proposal, reward in zip(first, (0.9, 0.1, 0.2), strict=True):
        evolution.tell(proposal, reward)
    children = evolution.ask(50)
    for child in children:
        assert sum(a != b for a, b in zip(child.digits, first[0].digits, strict=True)) == 1
    assert {t for c in children for t in range(5) if c.digits[t] != first[0].digits[t]} == {2, 3, 4}
    evolution.tell(children[0], 0.3)  # the best, now the oldest, dies
    for child in evolution.ask(20):
        assert sum(a != b for a, b in zip(child.digits, children[0].digits, strict=True)) == 1


# -- surrogate


def digits_of(formula: str) -> tuple[int, ...]:
    """Of this function in the one-unit space."""
    space, wanted = SPACES["one-unit"], canonical(parse(formula))
    points = map(space.digits, range(space.size))
    return next(d for d in points if canonical(space.expression(d)) == wanted)


def test_features_are_values_and_slopes_and_finite_for_every_operator() -> None:
    space = SPACES["one-unit"]
    relu, swish = space.features(np.array([digits_of("relu(x)"), digits_of("x*sigmoid(x)")]))
    n = len(GRID)
    assert relu[:n] == pytest.approx(np.arcsinh(np.maximum(GRID.numpy(), 0)))
    slope = np.gradient(GRID.numpy() / (1 + np.exp(-GRID.numpy())), 0.25)
    assert np.sinh(swish[n:]) == pytest.approx(slope)
    assert np.isfinite(space.features(np.array([*map(space.digits, range(space.size))]))).all()


def test_the_surrogate_finds_a_hidden_shape_sooner_than_chance() -> None:
    """The distance to x * erf(x) of the best of 40, summed over three seeds."""
    space = SPACES["one-unit"]
    [target] = space.features(np.array([digits_of("x*erf(x)")]))

    def best(name: str, seed: int) -> float:
        strategy, distances = strategy_from(name, space, seed), []
        for _ in range(40):
            [proposal] = strategy.ask(1)
            [shape] = space.features(np.array([proposal.digits]))
            distances.append(float(np.abs(shape - target).mean()))
            strategy.tell(proposal, 1 / (1 + distances[-1]))
        return min(distances)

    chance = sum(best("random", seed) for seed in range(3))
    assert sum(best("surrogate:pool=100", seed) for seed in range(3)) < 0.7 * chance


@pytest.mark.thorough
def test_a_surrogate_computes_in_one_thread_whatever_is_loaded_when() -> None:
    code = (
        "from actsearch.controller.threads import one_thread\n"
        "import threadpoolctl\n"
        "with one_thread(): pass\n"
        "with one_thread('scipy.linalg', 'sklearn.ensemble'):\n"
        "    found = threadpoolctl.threadpool_info()\n"
        "assert len(found) > 1, found\n"
        "assert all(library['num_threads'] == 1 for library in found), found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- successive halving


def test_a_cohort_is_halved_by_reward_and_the_inner_strategy_told_once_each() -> None:
    halving = strategy_from("exhaustive+halving:eta=2,rungs=3,cohort=8", SPACES["tiny"], 0)
    assert isinstance(halving, SuccessiveHalving)
    told: list[tuple[int, float]] = []
    halving.inner.tell = lambda p, reward: told.append((p.number, reward))  # type: ignore[method-assign]
    rungs: list[list[int]] = []
    for share, size in ((0.25, 8), (0.5, 4), (1.0, 2)):
        proposals = [*halving.ask(3), *halving.ask(8)] if share == 0.25 else [*halving.ask(1)]
        assert [p.share for p in proposals] == [share] * size
        rungs.append([SPACES["tiny"].index(p.digits) for p in proposals])
        for p in proposals:
            assert not told or share < 1
            index = SPACES["tiny"].index(p.digits)
            halving.tell(p, share * (index * 5 % 8))
        told_before, told[:] = list(told), []
        if share < 1:
            assert len(told_before) == size // 2
    # index * 5 % 8 of 0..7 is 0 5 2 7 4 1 6 3
    assert rungs == [list(range(8)), [3, 6, 1, 4], [3, 6]]
    assert told_before == [(3, 7.0), (6, 6.0)]
    assert halving.ask(1)[0].share == 0.25


def test_what_a_cohort_costs() -> None:
    config = HalvingConfig()
    assert config.cost == pytest.approx((64 / 16 + 16 / 4 + 4) / 64)
    assert config.words(200) == "64 x 12, 16 x 50, 4 x 200"


def test_no_more_candidates_closes_the_cohort_that_there_is() -> None:
    halving = strategy_from("exhaustive+halving:eta=2,rungs=2,cohort=8", SPACES["tiny"], 0)
    first = list(halving.ask(4))
    assert halving.ask(0) == []
    for p in first:
        halving.tell(p, p.number / 10)
    last = list(halving.ask(0))
    assert [(p.digits, p.share) for p in last] == [(first[3].digits, 1.0), (first[2].digits, 1.0)]
    for p in last:
        halving.tell(p, 0.5)
    assert halving.ask(0) == []
    assert len(halving.ask(5)) == 5  # a larger budget goes on with a new cohort


@dataclass
class Looped:
    """What a run of the loop's kind asked for, in order, and how the inner strategy heard of it."""

    proposals: list[Proposal]
    told: list[tuple[int, float]]  # the inner strategy's number, and the reward
    revised: dict[Digits, float]  # what it was told later

    @property
    def rungs(self) -> list[tuple[float, int]]:
        """(share, proposals) of each rung."""
        return [
            (share, len(list(group))) for share, group in groupby(p.share for p in self.proposals)
        ]


def looped(strategy: Strategy, candidates: int, workers: int = 1) -> Looped:
    """As the loop does: ask whenever a worker is free, for none once `candidates` were asked for,
    and end where nothing comes and nothing is on its way. Rewards come out of order; a longer
    training is worth more."""
    assert isinstance(strategy, SuccessiveHalving)
    asked: list[Proposal] = []
    told: list[tuple[int, float]] = []
    revised: dict[Digits, float] = {}
    tell, revise = strategy.inner.tell, strategy.inner.revise
    chance = np.random.default_rng(0)

    def note(proposal: Proposal, reward: float) -> None:
        told.append((proposal.number, reward))
        tell(proposal, reward)

    def note_again(digits: Digits, reward: float) -> None:
        revised[digits] = reward
        revise(digits, reward)

    strategy.inner.tell = note  # type: ignore[method-assign]
    strategy.inner.revise = note_again  # type: ignore[method-assign]
    lowest = strategy.config.eta ** (1 - strategy.config.rungs)
    on_their_way: list[Proposal] = []
    while True:
        left = candidates - sum(p.share == lowest for p in asked)
        while len(on_their_way) < workers and (
            new := strategy.ask(min(workers - len(on_their_way), left))
        ):
            asked += new
            on_their_way += new
            left -= sum(p.share == lowest for p in new)
        if not on_their_way:
            return Looped(asked, told, revised)
        proposal = on_their_way.pop(chance.integers(len(on_their_way)))
        strategy.tell(proposal, reward_of(proposal) + proposal.share)


@pytest.mark.parametrize("workers", [1, 7])
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in STRATEGIES if name not in ("surrogate", "ppo")),
        "surrogate:initial=140,pool=20",
        "ppo:pool=20,initial=9,batch_size=9,dreams=1",
        "ppo:model=none",
        "ppo:model=none,mode=async,epochs=1",
        "ppo:model=none,batch_size=9,epochs=1",
        "ppo:model=none,batch_size=64,epochs=1",
        "ppo:model=none,batch_size=90,epochs=1",
    ],
)
def test_the_cohorts_that_run_are_those_that_are_printed(name: str, workers: int) -> None:
    """Whether the inner strategy waits for rewards or not; the last is what the budget leaves."""
    strategy = strategy_from(f"{name}+halving", SPACES["two-units"], 0)
    whole = [(1 / 16, 64), (1 / 4, 16), (1.0, 4)]
    found = looped(strategy, 64 + 64 + 27, workers)
    assert found.rungs == [*whole, *whole, (1 / 16, 27), (1 / 4, 6), (1.0, 1)]
    assert [p.number for p in found.proposals] == list(range(2 * 84 + 34))
    assert [number for number, _ in sorted(found.told)] == list(range(64 + 64 + 27))
    assert strategy.ask(0) == []


@pytest.mark.parametrize("name", VISITING_ALL)
def test_the_end_of_a_space_closes_the_cohort(name: str) -> None:
    strategy = strategy_from(f"{name}+halving:rungs=2,cohort=80", SPACES["tiny"], 0)
    found = looped(strategy, 10**6, workers=3)
    assert found.rungs == [(1 / 4, 80), (1.0, 20), (1 / 4, 80), (1.0, 20), (1 / 4, 32), (1.0, 8)]
    assert strategy.exhausted


@pytest.mark.parametrize("batch_size", [3, 8])
def test_who_waits_within_a_cohort_is_told_first_rungs_and_then_the_last(batch_size: int) -> None:
    text = f"ppo:model=none,batch_size={batch_size}+halving:eta=2,rungs=2,cohort=8"
    found = looped(strategy_from(text, SPACES["two-units"], 0), 8)
    first, last = found.proposals[:8], found.proposals[8:]
    rewards = {p.digits: reward_of(p) + 0.5 for p in first}
    assert len(rewards) == 8
    whole = {p.digits: reward_of(p) + 1.0 for p in last}
    if batch_size == 8:  # a batch is a cohort: it needs no reward before
        rewards |= whole
    assert sorted(found.told) == [(p.number, rewards[p.digits]) for p in first]
    assert found.revised == ({} if batch_size == 8 else whole)


def test_the_model_of_who_waits_knows_the_last_rungs() -> None:
    """A failure in a later rung too."""
    text = "ppo:initial=3,batch_size=3,pool=20+halving:eta=2,rungs=3,cohort=9"
    halving = strategy_from(text, SPACES["two-units"], 0)
    last: dict[Digits, float | None] = {}
    trained = 0
    while trained < 9 + 4 + 2:
        for proposal in halving.ask(1 if trained < 9 else 0):
            failed = proposal.share == 1.0 and proposal.number % 2
            last[proposal.digits] = None if failed else reward_of(proposal) + proposal.share
            halving.tell(proposal, last[proposal.digits])
            trained += 1
    assert None in last.values()
    assert isinstance(halving, SuccessiveHalving)
    assert isinstance(halving.inner, PPO)
    assert halving.inner.model is not None
    assert halving.inner.model.known == last


@pytest.mark.parametrize(
    ("text", "batch", "initial"),
    [
        ("ppo", 12, 12),
        ("ppo:initial=5", 12, 5),
        ("ppo:batch_size=4", 4, 16),
        ("ppo:mode=async", 6, 16),
        ("ppo:model=none", 20, 16),
    ],
)
def test_a_batch_of_ppo_with_its_model_is_a_cohort_unless_it_is_said(
    text: str, batch: int, initial: int
) -> None:
    halving = strategy_from(f"{text}+halving:cohort=12", SPACES["tiny"], 0)
    assert isinstance(halving, SuccessiveHalving)
    assert isinstance(halving.inner, PPO)
    assert (halving.inner.config.batch, halving.inner.config.initial) == (batch, initial)


def test_who_waits_is_told_in_order_whoever_finishes_first() -> None:
    text = "ppo:model=none,batch_size=3+halving:eta=2,rungs=2,cohort=8"
    one, many = (looped(strategy_from(text, SPACES["tiny"], 0), 8, n) for n in (1, 3))
    assert one == many
    assert [number for number, _ in many.told] == list(range(8))


def test_rewards_reach_a_strategy_that_waits_only_when_nothing_is_on_its_way() -> None:
    halving = strategy_from(
        "ppo:model=none,batch_size=3+halving:eta=2,rungs=2,cohort=8", SPACES["tiny"], 0
    )
    first = list(halving.ask(5))
    assert len(first) == 3
    for p in first:
        assert halving.ask(5) == []
        halving.tell(p, 0.5)
    assert len(halving.ask(5)) == 3


def test_a_strategy_that_falls_silent_for_good_closes_its_cohort() -> None:
    """Such as one that waits for something that it will never be told."""
    halving = strategy_from("exhaustive+halving:eta=2,rungs=2,cohort=8", SPACES["tiny"], 0)
    assert isinstance(halving, SuccessiveHalving)
    ask = halving.inner.ask
    halving.inner.ask = lambda n: ask(n) if halving.number < 5 else []  # type: ignore[method-assign]
    found = looped(halving, 100, workers=5)
    assert found.rungs == [(0.5, 5), (1.0, 2)]


def test_evolution_begins_at_random_and_its_tournament_is_as_large_as_said() -> None:
    space = SPACES["one-unit"]
    config = EvolutionConfig(population=6, tournament=6)
    one, other = Evolution(space, 0, config), Evolution(space, 0, config)
    for _ in range(6):
        [p], [q] = one.ask(1), other.ask(1)
        assert p == q
        one.tell(p, 0.1 * p.number)
        other.tell(q, -0.1 * q.number)
    fair = Evolution(space, 0, EvolutionConfig(population=6, tournament=1))
    for p in fair.ask(6):
        fair.tell(p, 0.1 * p.number)
    parents = [digits for digits, _ in fair.alive]

    def differ(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        return sum(x != y for x, y in zip(a, b, strict=True))

    children = [p.digits for p in fair.ask(60)]
    assert all(any(differ(c, parent) == 1 for c in children) for parent in parents)


# -- what many rewards change


@pytest.mark.parametrize(
    "name",
    [
        "ppo:initial=3,batch_size=4,pool=30,dreams=1",
        "ppo:mode=async,initial=3,batch_size=4,pool=30,dreams=1",
        "surrogate:initial=2,pool=20",
    ],
)
def test_more_is_chosen_at_once_the_more_is_known_and_a_restored_strategy_does_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actsearch.controller.reward_model.TOGETHER", 5)
    unbroken, again = (strategy_from(name, SPACES["tiny"], 5) for _ in range(2))
    batches: list[int] = []
    left = 0
    for _ in range(40):
        [proposal] = unbroken.ask(1)
        assert again.ask(1) == [proposal]
        if left == 0:
            batches.append(1 + len(unbroken.peek(99)))
        left = len(unbroken.peek(99))
        state = json.loads(json.dumps(again.state_dict(), allow_nan=False))
        again = strategy_from(name, SPACES["tiny"], 99)
        again.load_state_dict(state)
        for each in (unbroken, again):
            each.tell(proposal, reward_of(proposal))
    grown = batches[batches.index(1) :] if 1 in batches else batches[1:]  # after the first draws
    assert grown == sorted(grown)
    assert grown[-1] >= 1 + 30 // 5
