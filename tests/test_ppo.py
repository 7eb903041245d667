"""The controller and PPO against arithmetic done by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actsearch.controller.policy import Policy
from actsearch.controller.ppo import (
    PPO,
    PPOConfig,
    advantages,
    approximate_kl,
    clipped_objective,
    update,
)
from actsearch.controller.scales import ranks
from actsearch.search_space.space import SPACES

RADICES = (1, 3, 1, 4, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(init: float = 0.5) -> Policy:
    return Policy(RADICES, hidden=8, init=init, generator=seeded())


def every_candidate() -> Tensor:
    return torch.cartesian_prod(*(torch.arange(radix) for radix in RADICES))


def test_the_probabilities_of_all_candidates_sum_to_one() -> None:
    logprob, _ = policy().evaluate(every_candidate())
    assert logprob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_a_choice_depends_on_those_before_it() -> None:
    """p(a, b) is not p(a) p(b): the prediction is fed back."""
    joint = policy().evaluate(every_candidate())[0].exp().reshape(3, 4, 2).sum(-1)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    assert (joint - independent).abs().max() > 1e-3


def test_samples_have_the_log_probability_that_they_were_drawn_with() -> None:
    made = policy()
    digits, logprob = made.sample(50, seeded(1))
    assert torch.allclose(logprob, made.evaluate(digits)[0], atol=1e-5)
    assert (digits < torch.tensor(RADICES)).all()


def test_samples_follow_the_probabilities() -> None:
    made, n = policy(), 20_000
    digits, _ = made.sample(n, seeded(1))
    place = digits[:, 1] * 8 + digits[:, 3] * 2 + digits[:, 4]
    expected = made.evaluate(every_candidate())[0].exp() * n
    found = torch.bincount(place, minlength=24)
    chi_squared = ((found - expected) ** 2 / expected).sum().item()
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_the_same_generator_gives_the_same_samples() -> None:
    made = policy()
    assert torch.equal(made.sample(9, seeded(4))[0], made.sample(9, seeded(4))[0])


def test_the_entropy_of_a_uniform_policy_is_the_log_of_the_width() -> None:
    _, entropy = policy(init=0.0).evaluate(every_candidate())
    assert entropy.tolist() == pytest.approx([math.log(3 * 4 * 2) / 3] * 24)


def test_the_entropies_along_samples_estimate_that_of_the_distribution() -> None:
    made = policy()
    logprob, entropy = made.evaluate(every_candidate())
    exact = -(logprob.exp() * logprob).sum().item()
    assert (logprob.exp() * entropy * 3).sum().item() == pytest.approx(exact, abs=1e-5)


def test_gradients_reach_every_parameter() -> None:
    made = policy()
    logprob, entropy = made.evaluate(every_candidate())
    (logprob[5] + entropy.mean()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# -- three candidates, worked by hand; c = 0.2

RATIO = torch.tensor([1.5, 0.5, 1.1])


def test_the_clipped_surrogate_of_three_candidates() -> None:
    """A > 0 and r > 1 + c: clipped, 1.2 * 2. A < 0 and r < 1 - c: clipped, 0.8 * -1. Inside:
    1.1 * 3. The pessimistic side is never clipped: r = 1.5 with A = -2 stays -3."""
    found = clipped_objective(RATIO, torch.tensor([2.0, -1.0, 3.0]), 0.2)
    assert found.tolist() == pytest.approx([2.4, -0.8, 3.3])
    assert clipped_objective(RATIO, torch.tensor([-2.0, 1.0, -3.0]), 0.2).tolist() == pytest.approx(
        [-3.0, 0.5, -3.3]
    )


def test_a_clipped_candidate_has_no_gradient() -> None:
    ratio = RATIO.clone().requires_grad_()
    clipped_objective(ratio, torch.tensor([2.0, -1.0, 3.0]), 0.2).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, 0.0, 3.0]


def test_the_kl_of_three_candidates() -> None:
    """mean of (r - 1) - log r: (0.5 - log 1.5 + -0.5 - log 0.5 + 0.1 - log 1.1) / 3."""
    expected = (0.5 - math.log(1.5) - 0.5 - math.log(0.5) + 0.1 - math.log(1.1)) / 3
    assert approximate_kl(RATIO.log()).item() == pytest.approx(expected, rel=1e-5)
    assert approximate_kl(torch.zeros(3)).item() == 0.0


def test_the_kl_is_that_of_the_starting_policy_on_its_own_samples_and_on_no_others() -> None:
    """p_start = 1/2, 1/4, 1/4 becomes p = 1/4, 1/2, 1/4: KL = 1/2 log 2 + 1/4 log 1/2 = 1/4 log 2.
    A batch that holds each candidate as often as p_start draws it gives just that. One of an older
    policy with 1/4, 1/2, 1/4 gives 1/4 (-1/2 + log 2) + 1/2 (1 - log 2) = 3/8 - 1/4 log 2."""
    moved = torch.tensor([1 / 2, 2.0, 1.0]).log()  # log p - log p_start of each candidate
    own, older = moved[[0, 0, 1, 2]], moved[[0, 1, 1, 2]]
    assert approximate_kl(own).item() == pytest.approx(math.log(2) / 4, rel=1e-5)
    assert approximate_kl(older).item() == pytest.approx(3 / 8 - math.log(2) / 4, rel=1e-5)


def test_the_advantages_of_three_candidates() -> None:
    """Rewards 0.2, 0.5, 0.8 over a baseline of 0.4; their standard deviation is sqrt(0.06)."""
    rewards = torch.tensor([0.2, 0.5, 0.8])
    plain = advantages(rewards, 0.4, scale=False)
    assert plain.tolist() == pytest.approx([-0.2, 0.1, 0.4])
    scaled = advantages(rewards, 0.4, scale=True)
    assert scaled.tolist() == pytest.approx([a / math.sqrt(0.06) for a in (-0.2, 0.1, 0.4)])
    assert advantages(torch.full((3,), 0.5), 0.5, scale=True).tolist() == [0.0, 0.0, 0.0]


def test_an_update_raises_the_probability_of_the_good_and_lowers_that_of_the_bad() -> None:
    made = policy(init=0.1)
    digits = every_candidate()[:3]
    before = made.evaluate(digits)[0].detach()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.01)
    done = update(
        made, optimiser, digits, before, torch.tensor([1.0, -1.0, 0.0]), PPOConfig(epochs=2)
    )
    after = made.evaluate(digits)[0]
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert done.epochs == 2
    assert done.entropy == pytest.approx(math.log(24) / 3, abs=0.02)


def test_the_epochs_end_at_the_target_kl() -> None:
    made, digits = policy(), every_candidate()[:3]
    before = made.evaluate(digits)[0].detach()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.2)
    config = PPOConfig(epochs=50, target_kl=0.01)
    done = update(made, optimiser, digits, before, torch.tensor([1.0, -1.0, 0.0]), config)
    assert done.epochs < 10
    assert done.approx_kl > 0.01


def test_stale_samples_are_corrected_by_the_ratio_to_the_policy_that_drew_them() -> None:
    """A candidate that the policy has come to prefer by more than 1 + c is not pushed further."""
    made, digits = policy(), every_candidate()[:1]
    now = made.evaluate(digits)[0].detach()
    parameters = [p.clone() for p in made.parameters()]
    optimiser = torch.optim.SGD(made.parameters(), lr=0.1)
    config = PPOConfig(epochs=1, ent_coef=0.0)
    update(made, optimiser, digits, now - math.log(1.5), torch.tensor([1.0]), config)
    assert all(torch.equal(p, q) for p, q in zip(made.parameters(), parameters, strict=True))
    update(made, optimiser, digits, now - math.log(1.1), torch.tensor([1.0]), config)
    assert not all(torch.equal(p, q) for p, q in zip(made.parameters(), parameters, strict=True))


# -- the strategy


def test_a_batch_is_proposed_from_one_policy_and_learnt_from_when_it_is_whole() -> None:
    ppo = PPO(SPACES["tiny"], 0, PPOConfig(model="none", batch_size=4, power=1.0))
    batch = [*ppo.ask(3), *ppo.ask(3)]
    assert len(batch) == 4
    assert ppo.ask(3) == []  # waits for rewards
    for proposal, reward in zip(batch[::-1], (0.4, 0.3, 0.2, 0.1), strict=True):
        assert ppo.updates == 0
        ppo.tell(proposal, reward)
    assert ppo.updates == 1
    # 0.25 is the first batch's mean, then r is averaged in with weight 0.05, in order of proposal
    average = 0.25
    for reward in (0.1, 0.2, 0.3, 0.4):
        average = 0.95 * average + 0.05 * reward
    assert ppo.health()["reward"] == pytest.approx(average)
    assert len(ppo.ask(9)) == 4


def test_the_order_in_which_workers_finish_changes_nothing() -> None:
    found = []
    for order in ((0, 1, 2, 3), (2, 0, 3, 1)):
        ppo = PPO(SPACES["tiny"], 0, PPOConfig(model="none", batch_size=4))
        batch = ppo.ask(4)
        for i in order:
            ppo.tell(batch[i], i / 4)
        found.append([p.digits for p in ppo.ask(4)])
    assert found[0] == found[1]


def test_async_keeps_proposing_and_learns_from_rewards_as_they_come() -> None:
    ppo = PPO(SPACES["tiny"], 0, PPOConfig(model="none", batch_size=3, mode="async"))
    open_ = [*ppo.ask(5), *ppo.ask(2)]
    assert len(open_) == 7
    for proposal in open_[:4]:
        ppo.tell(proposal, 0.5)
    assert ppo.updates == 1
    assert len(ppo.told) == 1
    assert len(ppo.ask(2)) == 2


def test_the_power_of_the_reward_keeps_failures_below_everything() -> None:
    ppo = PPO(SPACES["tiny"], 0, PPOConfig(model="none", batch_size=3, power=2.0, ema_decay=0.0))
    for proposal, reward in zip(ppo.ask(3), (None, 0.0, None), strict=True):
        ppo.tell(proposal, reward)
    assert ppo.baseline == pytest.approx(-0.01)


def test_ppo_learns_from_a_loss_which_digits_pay() -> None:
    """The share of `tiny` candidates that end in max, of 1.2 nats where others have 8.0 or fail."""
    ppo = PPO(SPACES["tiny"], 0, PPOConfig(model="none", lr=0.02), ranks)
    last = []
    for i in range(400):
        [proposal] = ppo.ask(1)
        last.append(proposal.digits[-1] == 2)
        ppo.tell(proposal, -1.2 if last[-1] else -8.0 if i % 2 else None)
    assert sum(last[:60]) < 40
    assert sum(last[-60:]) > 48


def test_ppo_learns_which_digits_pay() -> None:
    """The share of `tiny` candidates that end in max goes from a third to most of them."""
    space = SPACES["tiny"]
    ppo = PPO(space, 0, PPOConfig(model="none", lr=0.02))
    paid = []
    for _ in range(400):
        [proposal] = ppo.ask(1)
        paid.append(float(proposal.digits[-1] == 2))
        ppo.tell(proposal, paid[-1])
    assert sum(paid[:40]) / 40 < 0.6
    assert sum(paid[-100:]) / 100 > 0.8


def test_an_update_is_one_step_down_the_stated_loss() -> None:
    made, twin, digits = policy(), policy(), every_candidate()[:4]
    behaviour = made.evaluate(digits)[0].detach() - torch.tensor([0.05, -0.1, 0.0, 0.4])
    advantage, config = torch.tensor([1.0, -1.0, 0.5, 2.0]), PPOConfig(epochs=1, max_grad_norm=1e9)
    done = update(
        made, torch.optim.SGD(made.parameters(), lr=0.1), digits, behaviour, advantage, config
    )
    logprob, entropy = twin.evaluate(digits)
    ratio = (logprob - behaviour).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    loss = -gain - config.ent_coef * entropy.mean()
    slopes = torch.autograd.grad(loss, [*twin.parameters()])
    for ours, before, slope in zip(made.parameters(), twin.parameters(), slopes, strict=True):
        torch.testing.assert_close(ours, before - 0.1 * slope, atol=1e-6, rtol=0)
    moved = made.evaluate(digits)[0] - logprob
    assert done.approx_kl == pytest.approx((moved.expm1() - moved).mean().item(), abs=1e-6)


@pytest.mark.parametrize(("norm", "clipped"), [(1e-3, True), (1e9, False)])
def test_a_gradient_is_scaled_down_to_the_norm_and_never_up(norm: float, clipped: bool) -> None:
    made, twin, digits = policy(), policy(), every_candidate()[:4]
    behaviour, advantage = made.evaluate(digits)[0].detach(), torch.tensor([1.0, -1.0, 0.5, 2.0])
    moves = []
    for one, config in (
        (made, PPOConfig(epochs=1, max_grad_norm=norm)),
        (twin, PPOConfig(epochs=1, max_grad_norm=1e9)),
    ):
        before = nn.utils.parameters_to_vector(one.parameters()).detach()
        optimiser = torch.optim.SGD(one.parameters(), lr=1.0)
        update(one, optimiser, digits, behaviour, advantage, config)
        moves.append(nn.utils.parameters_to_vector(one.parameters()).detach() - before)
    ours, free = moves
    assert free.norm() > 1e-2
    expected = free * norm / free.norm() if clipped else free
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_update_is_given_advantages_and_what_the_policy_drew_with(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Tensor, Tensor, Tensor]] = []

    def noted(now: Policy, optimiser: Any, digits: Any, drawn: Any, worth: Any, config: Any) -> Any:
        given.append((now.evaluate(digits)[0].detach(), drawn, worth))
        return update(now, optimiser, digits, drawn, worth, config)

    monkeypatch.setattr("actsearch.controller.ppo.update", noted)
    made = PPO(SPACES["tiny"], 0, PPOConfig(model="none", batch_size=3, mode=mode, lr=0.05))
    rewards = (0.2, 0.5, 0.8)
    for p in [*made.ask(6)]:
        made.tell(p, rewards[p.number % 3])
    for p in made.ask(3) if mode == "sync" else ():
        made.tell(p, rewards[p.number % 3])
    powers = [r**3 for r in rewards]
    baseline = sum(powers) / 3
    sd = math.sqrt(sum((r - baseline) ** 2 for r in powers) / 3)
    assert given[0][2].tolist() == pytest.approx([(r - baseline) / sd for r in powers])
    for r in powers:
        baseline = 0.95 * baseline + 0.05 * r
    assert given[1][2].tolist() == pytest.approx([(r - baseline) / sd for r in powers])
    torch.testing.assert_close(given[0][0], given[0][1], atol=1e-5, rtol=0)
    stale = not torch.allclose(given[1][0], given[1][1], atol=1e-3)
    assert stale == (mode == "async")
