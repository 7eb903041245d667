"""The reward model against textbook formulas and scikit-learn, and what strategies make of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from torch import tensor

from actsearch.controller import gaussian_process, reward_model
from actsearch.controller.gaussian_process import GaussianProcess, Kernel, fitted, matern
from actsearch.controller.ppo import PPO, PPOConfig, advantages
from actsearch.controller.reward_model import KEPT, RewardModel, normal_scores, r2
from actsearch.controller.strategies import strategy_from
from actsearch.controller.strategy import Digits, Proposal, Reward, Strategy
from actsearch.controller.surrogate import Surrogate, SurrogateConfig
from actsearch.search_space.space import SPACES, space_from

KERNEL = Kernel(length=0.9, noise=0.05)
N = 30


def sample(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3))
    return x, np.sin(x[:, 0]) + 0.3 * x[:, 1] + 0.1 * random.normal(size=n)


def sklearns(process: GaussianProcess) -> Any:
    """The same process with the same hyper-parameters, on the same standardised sample."""
    length, noise, s2 = process.kernel.length, process.kernel.noise, process.s2
    kernel = ConstantKernel(s2) * Matern(length, nu=2.5) + WhiteKernel(s2 * noise)
    unfitted: Any = None
    return GaussianProcessRegressor(kernel, optimizer=unfitted).fit(process.x, process.y)


# -- the process


def test_means_and_deviations_are_those_of_scikit_learn() -> None:
    process, points = GaussianProcess(*sample(), KERNEL), sample(7, seed=1)[0]
    standard = (points - process.centre) / process.spread
    mean, std = sklearns(process).predict(standard, return_std=True)
    function = np.sqrt(std**2 - process.s2 * KERNEL.noise)  # theirs holds the noise of a training
    believed = process.at(points)
    assert believed.mean == pytest.approx(mean * process.scale + process.mean, abs=1e-8)
    assert believed.std == pytest.approx(function * process.scale, abs=1e-7)
    bound = believed.mean + 2 * believed.std
    assert believed.bound(2.0) == pytest.approx(bound)


def test_the_fitted_kernel_has_the_largest_density_of_the_grid_by_scikit_learns_likelihood() -> (
    None
):
    process = GaussianProcess(*sample())
    assert process.kernel == fitted(process.x, process.y)

    def density(kernel: Kernel) -> float:
        one = GaussianProcess(*sample(), kernel)
        likelihood = sklearns(one).log_marginal_likelihood_value_
        return float(likelihood) - 0.5 * (math.log(one.s2) ** 2 + math.log(kernel.length) ** 2)

    lengths, noises = gaussian_process.LENGTHS.tolist(), gaussian_process.NOISES.tolist()
    grid = [Kernel(length, noise) for length in lengths for noise in noises]
    assert max(grid, key=density) == process.kernel


def test_the_scale_is_the_best_one_by_hand() -> None:
    """s2 = y' K^-1 y / n maximises the likelihood of a covariance s2 K."""
    process = GaussianProcess(*sample(), KERNEL)
    covariance = matern(cdist(process.x, process.x), KERNEL.length) + KERNEL.noise * np.eye(N)
    expected = process.y @ np.linalg.inv(covariance) @ process.y / N
    assert process.s2 == pytest.approx(expected, rel=1e-9)
    assert process.noise == pytest.approx(math.sqrt(expected * KERNEL.noise) * process.scale)


def test_a_kernel_is_fitted_again_near_the_last_only() -> None:
    x, y = sample()
    far = Kernel(gaussian_process.LENGTHS[-1], 0.01)
    assert GaussianProcess(x, y, far).kernel == far
    again = GaussianProcess(x, y, far, refit=True).kernel
    assert -gaussian_process.NEAR <= math.log(again.length / far.length) <= 0
    assert GaussianProcess(x, y).kernel.length < again.length


def test_left_out_predictions_are_those_of_processes_without_the_point() -> None:
    process = GaussianProcess(*sample(), KERNEL)
    covariance = matern(cdist(process.x, process.x), KERNEL.length) + KERNEL.noise * np.eye(N)
    for i in range(N):
        others = np.arange(N) != i
        weights = np.linalg.solve(covariance[np.ix_(others, others)], process.y[others])
        expected = covariance[i, others] @ weights * process.scale + process.mean
        assert process.left_out()[i] == pytest.approx(expected)


def test_awaited_points_lower_deviations_as_rewards_equal_to_the_mean_would() -> None:
    """Against the same process with these rewards among its own, by the textbook's formula."""
    process, points = GaussianProcess(*sample(), KERNEL), sample(9, seed=1)[0]
    believed = process.at(points)
    before = believed.mean
    for i in (4, 7, 4):  # the same point twice, as two trainings of it
        believed.expect(i)
    standard = (points - process.centre) / process.spread
    known = np.concatenate([process.x, standard[[4, 7, 4]]])
    covariance = matern(cdist(known, known), KERNEL.length) + KERNEL.noise * np.eye(N + 3)
    across = matern(cdist(known, standard), KERNEL.length)
    variance = 1 - np.einsum("ij,ij->j", across, np.linalg.solve(covariance, across))
    assert believed.std == pytest.approx(np.sqrt(process.s2 * variance) * process.scale)
    assert believed.mean == pytest.approx(before)
    lies = np.concatenate([process.y, (before[[4, 7, 4]] - process.mean) / process.scale])
    told = across.T @ np.linalg.solve(covariance, lies) * process.scale + process.mean
    assert told == pytest.approx(before)


def test_an_awaited_point_that_is_far_from_all_that_is_known_is_less_uncertain_too() -> None:
    """Of two known points the spread may be tiny, and others lie 1e9 of it away."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=9) + 1e-7 * np.array([np.zeros(9), rng.normal(size=9)])
    process = GaussianProcess(x, np.array([0.0, 1.0]), KERNEL)
    for far in 13 * rng.normal(size=(20, 1, 9)):
        believed = process.at(far)
        assert believed.unit_variance == pytest.approx([1.0])
        believed.expect(0)
        assert believed.unit_variance == pytest.approx([1 - 1 / (1 + KERNEL.noise)], abs=1e-6)


def test_a_constant_input_and_equal_rewards_do_no_harm() -> None:
    x, y = sample()
    x[:, 2] = 7.0
    moved = np.array([[0.0, 0.0, 7.0], [0.0, 0.0, 9.0]])
    mean = GaussianProcess(x, y).at(moved).mean
    assert mean[0] == mean[1]
    flat = GaussianProcess(x, np.full(N, 0.4)).at(moved)
    assert flat.mean == pytest.approx([0.4, 0.4])
    assert np.isfinite(flat.std).all()


# -- what is learnt from


def test_rewards_become_what_a_normal_sample_has_at_their_ranks() -> None:
    """(i - 1/2) / 5: failures share the ranks 1 and 2, so 1/5; then 1/2, 7/10, 9/10."""
    found = normal_scores([None, 3.0, -1e9, None, 3.1])
    assert found == pytest.approx(norm.ppf([0.2, 0.7, 0.5, 0.2, 0.9]))


def test_r2_is_of_left_out_means() -> None:
    """0, 0, 3 are predicted by the mean of the others as 1.5, 1.5, 0: an error of 13.5."""
    rewards = np.array([0.0, 0.0, 3.0])
    assert r2(rewards, np.array([1.5, 1.5, 0.0])) == pytest.approx(0.0)
    assert r2(rewards, np.array([0.0, 0.0, 2.0])) == pytest.approx(1 - 1 / 13.5)
    assert r2(np.ones(3), np.ones(3)) == 0.0


def told(
    space_name: str, reward: Callable[[Digits], Reward], n: int = 60, seed: int = 0
) -> RewardModel:
    space = SPACES[space_name]
    model, random = RewardModel(space, 0.5), np.random.default_rng(seed)
    for _ in range(n):
        digits: Digits = tuple(random.integers(space.radices).tolist())
        model.tell(digits, reward(digits))
    return model


def by_shape(digits: Digits) -> Reward:
    """Failures among them, as in a real search."""
    [shape] = SPACES["two-units"].features(np.array([digits]))
    return (
        None if np.abs(shape).max() > 12 else -float(np.abs(shape - np.linspace(-2, 2, 66)).mean())
    )


def by_digits(digits: Digits) -> Reward:
    random = np.random.default_rng(5)
    radices = SPACES["two-units"].radices
    return float(sum(random.random(r)[d] for r, d in zip(radices, digits, strict=True)))


def test_the_description_that_predicts_better_is_believed() -> None:
    views = {name: told("two-units", f)._process()[1]
             for name, f in {"shapes": by_shape, "digits": by_digits}.items()}  # fmt: skip
    assert views == {"shapes": "shapes", "digits": "digits"}


def test_r2_says_what_is_predicted_and_nothing_where_nothing_can_be() -> None:
    noise = np.random.default_rng(0)
    assert told("two-units", by_shape).r2 > 0.4
    assert told("two-units", lambda _: noise.normal()).r2 < 0.2


def test_only_the_best_and_the_latest_are_kept_of_many() -> None:
    model = told("two-units", lambda digits: float(sum(digits)), n=2 * KEPT + 1)
    assert len(model.known) < 2 * KEPT
    assert max(model.known.values(), key=lambda r: r or 0) == max(
        float(sum(d)) for d in model.known
    )
    assert model.told == 2 * KEPT + 1


def test_a_repeat_keeps_the_process() -> None:
    """Where nothing new is left, thousands of repeats come before a search ends."""
    model = told("two-units", by_shape)
    digits, before = next(iter(model.known)), model._process()
    model.tell(digits, model.known[digits])
    assert model._process() is before
    model.tell(digits, 9.0)
    assert model._process() is not before


def test_a_restored_model_believes_the_same_to_the_last_bit() -> None:
    """torch's sinh has other last bits in a longer tensor."""
    space = space_from("units=2;unary=sinh,tanh,identity,neg;binary=add,sub,max")
    model, restored = RewardModel(space, 0.5), RewardModel(space, 0.5)
    random = np.random.default_rng(0)

    def drawn(n: int) -> list[Digits]:
        return [tuple(row) for row in random.integers(space.radices, size=(n, 10)).tolist()]

    points, known = drawn(50), drawn(120)
    for i, digits in enumerate(known):
        model.tell(digits, float(random.normal()))
        if i % 7 == 6:
            model.at(points)
    restored.load_state_dict(json.loads(json.dumps(model.state_dict())))
    believed, again = (each.at([*points, *known]).bound(0.5) for each in (model, restored))
    assert np.array_equal(believed, again)
    shapes, again = (each._inputs("shapes", [*points, *known]) for each in (model, restored))
    assert np.array_equal(shapes, again)


# -- what is chosen


def test_sources_take_turns_and_each_gives_its_most_promising() -> None:
    model = told("two-units", by_shape)
    random = np.random.default_rng(9)
    sources = [
        [tuple(row) for row in random.integers(model.space.radices, size=(40, 10)).tolist()]
        for _ in range(3)
    ]
    first = model.choose(1, sources, ())[0]
    assert first in sources[0]
    assert first == model.most_promising(1, model.new(sources[0]))[0]
    rest = model.choose(5, sources, [first])
    assert [next(i for i, s in enumerate(sources) if d in s) for d in rest] == [1, 2, 0, 1, 2]
    assert first not in rest
    assert len(set(rest)) == 5


def test_what_is_known_or_on_its_way_is_not_chosen_however_it_is_spelt() -> None:
    """x + x * x and x * x + x; the binary operators take their arguments in both orders."""
    space = SPACES["one-unit"]
    model = told("one-unit", lambda digits: float(sum(digits)), n=12)
    by_curve: dict[bytes, list[Digits]] = {}
    for i in range(space.size):
        digits = space.digits(i)
        [row] = space.features(np.array([digits]))
        by_curve.setdefault(np.round(row, 6).tobytes(), []).append(digits)
    pairs = [spelt for spelt in by_curve.values() if len(spelt) > 1]
    (known, again), (waiting, meanwhile) = pairs[3][:2], pairs[9][:2]
    model.tell(known, 0.5)
    fresh = pairs[20][0]
    assert model.choose(9, [[again, meanwhile, fresh, pairs[20][1]]], [waiting]) == [fresh]
    assert model.choose(1, [[again]], ()) == []


@pytest.mark.parametrize("name", ["surrogate:initial=5,pool=40"])
def test_proposals_depend_on_the_order_of_rewards_alone(name: str) -> None:
    def proposed(unit: Callable[[float], float]) -> list[Digits]:
        strategy, found = strategy_from(name, SPACES["two-units"], 0), list[Digits]()
        for _ in range(15):
            [proposal] = strategy.ask(1)
            found.append(proposal.digits)
            reward = by_shape(proposal.digits)
            strategy.tell(proposal, None if reward is None else unit(reward))
        return found

    assert proposed(lambda r: r) == proposed(lambda r: 1e6 * math.exp(r))


@pytest.mark.parametrize("workers", [1, 5])
def test_a_surrogate_never_proposes_what_is_known_or_on_its_way(workers: int) -> None:
    space = SPACES["tiny"]
    strategy, met = strategy_from("surrogate:initial=2,pool=60", space, 0), set[bytes]()
    for _ in range(40 // workers):
        asked = strategy.ask(workers)
        for row in np.round(space.features(np.array([p.digits for p in asked])), 6):
            met.add(row.tobytes())
        for p in asked:
            strategy.tell(p, float(sum(p.digits)))
    assert len(met) >= 40 - workers  # the first may be drawn more than once


def test_the_model_chooses_also_after_more_random_candidates_than_it_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reward_model, "KEPT", 4)
    strategy = strategy_from("surrogate:initial=12,pool=20", SPACES["two-units"], 0)
    assert isinstance(strategy, Surrogate)
    for _ in range(12):
        assert not strategy.model.turn
        told_all(strategy)
    assert len(strategy.model.known) < 12
    told_all(strategy)
    assert strategy.model.turn


def told_all(strategy: Strategy) -> None:
    for proposal in strategy.ask(1):
        strategy.tell(proposal, by_digits(proposal.digits))


def test_the_smallest_pool_has_descendants() -> None:
    strategy = Surrogate(SPACES["two-units"], 0, SurrogateConfig(pool=2, initial=2))
    for _ in range(3):
        told_all(strategy)
    assert strategy._descendants(1)


def test_a_surrogate_of_an_older_run_goes_on_from_its_rewards() -> None:
    """The state of a surrogate with scikit-learn's process, which had no key `model`."""
    config = SurrogateConfig(pool=20, initial=2)
    new, old = (Surrogate(SPACES["two-units"], 0, config) for _ in range(2))
    known = [[list(digits), by_digits(digits)] for digits in told("two-units", by_digits, 5).known]
    old.load_state_dict({
        "random": new.random.bit_generator.state, "number": 6, "known": known,
        "open": [[5, [0] * 10]], "kernel": [0.0, 2.0, -3.0], "fitted_to": 4,
    })  # fmt: skip
    assert [[list(digits), reward] for digits, reward in old.model.known.items()] == known
    old.tell(Proposal(5, (0,) * 10), None)
    [proposal] = old.ask(1)
    assert proposal.number == 6
    assert old.model.turn  # the model has chosen


# -- the controller with a model


def ppo(**options: object) -> PPO:
    return PPO(SPACES["two-units"], 0, PPOConfig(**options))  # pyright: ignore[reportArgumentType]


def searched(strategy: PPO, reward: Callable[[Digits], Reward], n: int) -> list[Digits]:
    found: list[Digits] = []
    while len(found) < n:
        for proposal in strategy.ask(1):
            found.append(proposal.digits)
            strategy.tell(proposal, reward(proposal.digits))
    return found


def test_without_anything_to_predict_the_policy_draws_alone() -> None:
    flat = searched(ppo(initial=4, batch_size=4), lambda _: 0.5, 12)
    alone = searched(ppo(model="none", batch_size=4), lambda _: 0.5, 12)
    assert flat == alone
    learnt = searched(ppo(initial=4, batch_size=4, pool=30), by_digits, 12)
    assert learnt[:4] == alone[:4]
    assert learnt[4:] != alone[4:]


def test_the_model_finds_more_than_the_policy_does_alone() -> None:
    def best(**options: object) -> float:
        return max(by_digits(d) or 0.0 for d in searched(ppo(**options), by_digits, 60))

    assert best(pool=300) > best(model="none") + 0.5


def test_a_first_batch_is_larger_and_the_next_have_their_own_size() -> None:
    strategy = ppo(initial=8, batch_size=3, pool=30)
    assert [len(batch(strategy)) for _ in range(3)] == [8, 3, 3]
    assert strategy.updates == 3
    assert 0 < strategy.health()["R2"] < 1
    assert [len(batch(ppo(model="none", batch_size=3))) for _ in range(2)] == [3, 3]
    assert len(batch(ppo())) == 16
    assert len(batch(ppo(model="none"))) == 20


def batch(strategy: PPO) -> Sequence[object]:
    asked = strategy.ask(99)
    for proposal in asked:
        strategy.tell(proposal, by_digits(proposal.digits))
    return asked


def test_a_controller_of_an_older_run_goes_on_without_a_model() -> None:
    """As the strategy would have that gave its state, which had no key `model`."""
    first, alone, older = ppo(model="none", hidden=8), ppo(model="none", hidden=8), ppo(hidden=8)
    searched(first, by_digits, 25)
    state = first.state_dict()
    assert "model" not in state
    for strategy in (alone, older):
        strategy.load_state_dict(state)
    assert searched(older, by_digits, 25) == searched(alone, by_digits, 25)
    assert older.state_dict() == alone.state_dict()


def test_async_more_are_chosen_together_where_more_is_known() -> None:
    """A process fitted to each reward of hundreds would cost 0.1 s a proposal."""
    strategy = ppo(mode="async", initial=4, pool=30, hidden=8)
    assert strategy.model is not None
    for digits in told("two-units", by_digits, 250).known:
        strategy.model.tell(digits, by_digits(digits))
    assert len(strategy.ask(1)) == 1
    assert len(strategy.waiting) == 2
    coming = [*strategy.peek(9)]
    assert [p.digits for p in strategy.ask(3)][:2] == coming


def test_a_controller_in_a_space_with_one_point_proposes_it() -> None:
    strategy = PPO(space_from("units=1;unary=identity;binary=add"), 0, PPOConfig(hidden=8))
    assert set(searched(strategy, lambda _: 0.5, 40)) == {(0,) * 5}


def test_rewards_that_differ_by_noise_alone_are_no_large_advantages() -> None:
    rewards = tensor([0.50, 0.51])
    assert advantages(rewards, 0.5, scale=True).max() == pytest.approx(2.0, rel=1e-3)
    assert advantages(rewards, 0.5, scale=True, least=0.1).max() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(("text", "said"), [
    ("ppo:model=forest", "use gp or none"), ("ppo:pool=0", "must be above 0"),
    ("ppo:kappa=-1", "must be 0 or more"), ("surrogate:model=forest", "unknown option"),
    ("surrogate:generations=0", "must be 1 or more"),
])  # fmt: skip
def test_options_of_a_model_that_make_no_sense_get_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strategy_from(text, SPACES["tiny"], 0)
