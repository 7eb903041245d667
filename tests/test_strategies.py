"""The conformance suite of the Strategy protocol, and what each strategy promises beyond it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from controller.random_search import RandomSearch, permuted
from controller.strategies import STRATEGIES, strategy_from
from controller.strategy import Proposal, Strategy
from search_space.space import SPACES, Space

from .conftest import SMALL

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


def test_proposals_are_points_of_the_space_and_numbered_in_order(
    strategy_name: str, any_space: Space
) -> None:
    strategy = strategy_from(strategy_name, any_space, 0)
    proposals = asked(strategy, rounds=4, n=3)
    assert [p.number for p in proposals] == list(range(len(proposals)))
    assert len(proposals) == 12
    for p in proposals:
        any_space.check(p.digits)


def test_no_more_proposals_than_asked_for(strategy_name: str, any_space: Space) -> None:
    strategy = strategy_from(strategy_name, any_space, 0)
    for n in (1, 5, 2):
        assert len(strategy.ask(n)) <= n


def test_a_restored_strategy_goes_on_as_the_unbroken_one(
    strategy_name: str, any_space: Space
) -> None:
    unbroken = strategy_from(strategy_name, any_space, 5)
    asked(unbroken, rounds=3, n=2)
    state = json.loads(json.dumps(unbroken.state_dict(), allow_nan=False))
    restored = strategy_from(strategy_name, any_space, 99)
    restored.load_state_dict(state)
    assert asked(restored, rounds=4, n=2) == asked(unbroken, rounds=4, n=2)


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
    proposals = asked(STRATEGIES["exhaustive"](SMALL, 0), rounds=1, n=10)
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


def test_every_row_of_the_table_builds() -> None:
    builders: list[Callable[[Space, int], Strategy]] = list(STRATEGIES.values())
    assert all(not build(SMALL, 0).exhausted for build in builders)
