"""PPO on whole candidates (Schulman et al. 2017; paper, Section 2): one page from samples to step.

A   = (R**power - b) / sd                       R: scaled reward; b: moving average of R**power
r   = exp(log p(d) - log p_behaviour(d))
L   = -mean min(r A, clip(r, 1 - c, 1 + c) A) - ent_coef * entropy
KL  = mean((q - 1) - log q),  q = p / p_start   on the batch; ends the epochs
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from actsearch.controller.policy import Policy
from actsearch.controller.scales import Scale, fractions
from actsearch.controller.state import pack, unpack
from actsearch.controller.strategy import Digits, Proposal, Reward
from actsearch.controller.threads import one_thread
from actsearch.search_space.space import Space


@dataclass(frozen=True)
class PPOConfig:
    """The paper states only: RNN, PPO, validation accuracy, moving average. Its group's next paper
    (Zoph et al. 2018, appendix A) states more for the same controller; the rest is ours."""

    mode: Literal["sync", "async"] = "sync"
    """sync: a whole batch is proposed, then learnt from, as in the paper. async: the next batch
    begins while workers still train the last; the ratio corrects for the older policy (ours)."""
    batch_size: int = 20
    """Candidates an update (Zoph et al. 2018)."""
    lr: float = 0.005
    """Of Adam (not stated in the paper; ours. Zoph et al. 2018: 0.00035, for 20,000 candidates)."""
    epochs: int = 4
    """Passes over a batch (not stated; ours, as Schulman et al. 2017 take several)."""
    clip_coef: float = 0.2
    """The c of the objective (not stated; Schulman et al. 2017)."""
    ent_coef: float = 0.7
    """Weight of the entropy bonus, nats a decision (not stated; ours). More than is usual, since a
    search wants the best candidate, not the best average; see `benchmarks/strategies.py`."""
    target_kl: float = 0.1
    """Ends the epochs of a batch once the policy has moved so far on it, in nats a candidate; see
    `approximate_kl` (ours)."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm (not stated; as usual for PPO)."""
    power: float = 3.0
    """Learnt from is R ** power, so that good candidates differ more than bad ones (3: Zoph, Le
    2017, section 4.1, cube the accuracy). R is an accuracy, or the rank of a score whose range
    nothing says (controller/scales.py)."""
    ema_decay: float = 0.95
    """Of the moving average of rewards, per reward (Zoph et al. 2018)."""
    scale_advantage: Literal["yes", "no"] = "yes"
    """Whether advantages are divided by the standard deviation of the batch's rewards (ours)."""
    hidden: int = 64
    """Width of the LSTM and of its embeddings (not stated; ours. Zoph et al. 2018: 100)."""
    init: float = 0.1
    """Initial weights are uniform in -init..init (Zoph et al. 2018)."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "lr", "epochs", "clip_coef", "max_grad_norm", "hidden", "init"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ppo:{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ppo:ema_decay={self.ema_decay} must be in 0..1, below 1")


@dataclass(frozen=True)
class Update:
    """What an update did, from its last epoch."""

    approx_kl: float
    clip_fraction: float
    entropy: float  # nats a decision, before the update
    epochs: int


def clipped_objective(ratio: Tensor, advantage: Tensor, clip_coef: float) -> Tensor:
    """The clipped objective of each candidate, to be maximised (Schulman et al. 2017, eq. 7)."""
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return torch.minimum(ratio * advantage, clipped * advantage)


def approximate_kl(logratio: Tensor) -> Tensor:
    """mean((q - 1) - log q), q = p / p_start, in nats, from log p - log p_start of a batch (B,).

    For samples of p_start, as in mode sync, an unbiased estimate of KL(p_start || p) (Schulman
    2020, "Approximating KL divergence"). In mode async some were drawn from older policies: then it
    says how far the policy has moved on them, 0 where it has not and never less, but is biased as
    an estimate of that KL.
    """
    return (torch.expm1(logratio) - logratio).mean()


SEEN = 1_000  # rewards, the latest
MIN_SCALE = 1e-3  # rewards that differ by less do not blow an advantage up


def advantages(rewards: Tensor, baseline: float, *, scale: bool) -> Tensor:
    """A = R - b, divided by the batch's standard deviation if `scale`."""
    advantage = rewards - baseline
    return advantage / max(rewards.std(correction=0).item(), MIN_SCALE) if scale else advantage


def update(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    digits: Tensor,
    behaviour_logprob: Tensor,
    advantage: Tensor,
    config: PPOConfig,
) -> Update:
    """Improve `policy` on a batch: digits (B, T), the log-probabilities with which they were drawn
    (B,), and their advantages (B,)."""
    with torch.no_grad():
        start_logprob, start_entropy = policy.evaluate(digits)
    approx_kl = clip_fraction = 0.0
    epoch = 0
    while epoch < config.epochs and approx_kl <= config.target_kl:
        epoch += 1
        logprob, entropy = policy.evaluate(digits)
        ratio = (logprob - behaviour_logprob).exp()
        objective = clipped_objective(ratio, advantage, config.clip_coef).mean()
        loss = -objective - config.ent_coef * entropy.mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimiser.step()
        with torch.no_grad():
            logprob = policy.evaluate(digits)[0]
        approx_kl = approximate_kl(logprob - start_logprob).item()
        ratio = (logprob - behaviour_logprob).exp()
        clip_fraction = ((ratio - 1).abs() > config.clip_coef).float().mean().item()
    return Update(approx_kl, clip_fraction, start_entropy.mean().item(), epoch)


@dataclass
class Sample:
    """A candidate that was drawn, until it has been learnt from."""

    number: int
    digits: tuple[int, ...]
    logprob: float
    reward: Reward = None


class PPO:
    """The strategy: draw candidates from the policy, and update it on each batch of rewards."""

    def __init__(
        self, space: Space, seed: int, config: PPOConfig, scale: Scale = fractions
    ) -> None:
        self.config = config
        self.scale = scale
        self.generator = torch.Generator().manual_seed(seed)
        self.policy = Policy(space.radices, config.hidden, config.init, self.generator)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=config.lr)
        self.drawn = 0
        self.updates = 0
        self.baseline: float | None = None  # moving average of R ** power
        self.average = 0.0  # moving average of R, to be looked at
        self.waiting: list[Sample] = []  # drawn, not asked for yet (sync)
        self.open: dict[int, Sample] = {}  # asked for, no reward yet
        self.told: list[Sample] = []  # to be learnt from
        self.seen: deque[Reward] = deque(maxlen=SEEN)  # among which rewards are ranked
        self._health: dict[str, Any] = {}
        self._network: str | None = None  # packed, until the next update

    def ask(self, n: int) -> list[Proposal]:
        if self.config.mode == "async":
            self._draw(n)
        elif n > 0 and not self.waiting and not self.open:
            self._draw(self.config.batch_size)
        asked, self.waiting = self.waiting[:n], self.waiting[n:]
        self.open |= {sample.number: sample for sample in asked}
        return [Proposal(sample.number, sample.digits) for sample in asked]

    def _draw(self, n: int) -> None:
        if n == 0:
            return
        with one_thread():
            digits, logprob = self.policy.sample(n, self.generator)
        for row, value in zip(digits.tolist(), logprob.tolist(), strict=True):
            self.waiting.append(Sample(self.drawn, tuple(row), value))
            self.drawn += 1

    def peek(self, n: int) -> list[Digits]:
        return [sample.digits for sample in self.waiting[:n]]

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        sample = self.open.pop(proposal.number)
        sample.reward = reward
        self.told.append(sample)
        self.seen.append(reward)
        if len(self.told) == self.config.batch_size:
            batch, self.told = sorted(self.told, key=lambda s: s.number), []
            self._learn(batch)

    def _learn(self, batch: Sequence[Sample]) -> None:
        scaled = self.scale([s.reward for s in batch], self.seen)
        told = torch.tensor(scaled, dtype=torch.float64)
        rewards = told.sign() * told.abs() ** self.config.power
        if self.baseline is None:
            self.baseline, self.average = rewards.mean().item(), told.mean().item()
        advantage = advantages(rewards, self.baseline, scale=self.config.scale_advantage == "yes")
        digits = torch.tensor([s.digits for s in batch])
        logprob = torch.tensor([s.logprob for s in batch])
        with one_thread():
            done = update(self.policy, self.optimiser, digits, logprob, advantage, self.config)
        new = 1 - self.config.ema_decay
        for reward, learnt in zip(told.tolist(), rewards.tolist(), strict=True):
            self.average += new * (reward - self.average)
            self.baseline += new * (learnt - self.baseline)
        self.updates += 1
        self._network = None
        self._health = {
            "update": self.updates,
            "reward": self.average,
            "entropy": done.entropy,
            "KL": done.approx_kl,
            "clipped": done.clip_fraction,
        }

    @property
    def exhausted(self) -> bool:
        return False  # a policy can always draw again; `patience` ends a search that has converged

    def health(self) -> dict[str, float]:
        return self._health

    def state_dict(self) -> dict[str, Any]:
        if self._network is None:
            parts = (self.policy, self.optimiser)
            self._network = pack([part.state_dict() for part in parts])
        lists = {"waiting": self.waiting, "open": [*self.open.values()], "told": self.told}
        return {
            "network": self._network,
            "generator": pack(self.generator.get_state()),
            "counts": [self.drawn, self.updates],
            "averages": [self.baseline, self.average],
            "seen": [*self.seen],
            "health": self._health,
            **{name: [list(vars(s).values()) for s in kept] for name, kept in lists.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._network = state["network"]
        policy, optimiser = unpack(state["network"])
        self.policy.load_state_dict(policy)
        self.optimiser.load_state_dict(optimiser)
        self.generator.set_state(unpack(state["generator"]))
        self.drawn, self.updates = state["counts"]
        self.baseline, self.average = state["averages"]
        self.seen.clear()
        self.seen.extend(state.get("seen", ()))  # older runs have none
        self._health = state["health"]
        lists = {
            name: [Sample(number, tuple(digits), logprob, reward)
                   for number, digits, logprob, reward in state[name]]
            for name in ("waiting", "open", "told")
        }  # fmt: skip
        self.waiting, self.told = lists["waiting"], lists["told"]
        self.open = {sample.number: sample for sample in lists["open"]}
