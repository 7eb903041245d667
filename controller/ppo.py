"""PPO on whole candidates (Schulman et al. 2017; paper, Section 2): one page from samples to step.

A   = (R**power - b) / sd                       R: scaled reward; b: moving average of R**power
r   = exp(log p(d) - log p_behaviour(d))
L   = -mean min(r A, clip(r, 1 - c, 1 + c) A) - ent_coef * entropy
KL  = mean((q - 1) - log q),  q = p / p_start   on the batch; ends the epochs

Between batches a model of rewards helps, unless `model=none` (after Angermueller et al. 2020,
DyNA-PPO): the policy learns from the most promising of its own samples as the model judges them,
and the next batch is chosen by the model among samples of the policy, random points and mutants of
the best. While the model predicts nothing, all is as without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from actsearch.controller.policy import Policy
from actsearch.controller.reward_model import PARENTS, Drawing, RewardModel
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
    model: Literal["gp", "none"] = "gp"
    """gp: a Gaussian process of rewards between batches (`reward_model.py`). none: as the paper."""
    batch_size: int = 0
    """Candidates an update [0: 6 with a model (ours), with +halving a cohort; 20 without (Zoph et
    al. 2018)]."""
    initial: int = 16
    """Candidates that the policy draws before the model first chooses (ours)."""
    pool: int = 1200
    """Candidates among which the model chooses (ours)."""
    kappa: float = 0.5
    """Standard deviations above the model's mean that a candidate is taken to be worth (ours)."""
    dreams: int = 4
    """Updates from samples that the model alone has judged, after each batch (ours)."""
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
        for name in (
            "initial",
            "pool",
            "lr",
            "epochs",
            "clip_coef",
            "max_grad_norm",
            "hidden",
            "init",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"ppo:{name}={getattr(self, name)} must be above 0")
        for name in ("batch_size", "kappa", "dreams"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"ppo:{name}={getattr(self, name)} must be 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ppo:ema_decay={self.ema_decay} must be in 0..1, below 1")

    @property
    def batch(self) -> int:
        """Candidates an update."""
        return self.batch_size or (20 if self.model == "none" else 6)

    def in_cohorts(self, size: int) -> PPOConfig:
        """These options where cohorts of `size` train in rungs: a batch that nobody has said is a
        cohort, so that it fills one without rewards of first rungs, as other strategies do. (The
        paper's method, without a model, keeps its batches; `async` waits for none.)"""
        if self.batch_size or self.model == "none" or self.mode == "async":
            return self
        first = size if self.initial == PPOConfig.initial else self.initial
        return replace(self, batch_size=size, initial=first)


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
DREAMT = 128  # samples that the model judges; the policy learns from a quarter of them
DREAM = {"epochs": 2, "ent_coef": 0.1}


def advantages(
    rewards: Tensor, baseline: float, *, scale: bool, least: float = MIN_SCALE
) -> Tensor:
    """A = R - b; if `scale`, over the batch's standard deviation, which counts `least` or more."""
    advantage = rewards - baseline
    return advantage / max(rewards.std(correction=0).item(), least) if scale else advantage


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
    logprob, entropy = policy.evaluate(digits)
    start_logprob, start_entropy = logprob.detach(), entropy.detach()
    approx_kl = clip_fraction = 0.0
    epoch = 0
    while policy.free and epoch < config.epochs and approx_kl <= config.target_kl:
        epoch += 1
        ratio = (logprob - behaviour_logprob).exp()
        objective = clipped_objective(ratio, advantage, config.clip_coef).mean()
        loss = -objective - config.ent_coef * entropy.mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimiser.step()
        logprob, entropy = policy.evaluate(digits)  # as the policy is now
        moved = logprob.detach()
        approx_kl = approximate_kl(moved - start_logprob).item()
        ratio = (moved - behaviour_logprob).exp()
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
    """The strategy: draw candidates from the policy, or choose among them and others by the model,
    and update the policy on each batch of rewards."""

    def __init__(
        self, space: Space, seed: int, config: PPOConfig, scale: Scale = fractions
    ) -> None:
        self.config = config
        self.scale = scale
        self.generator = torch.Generator().manual_seed(seed)
        self.policy = Policy(space.radices, config.hidden, config.init, self.generator)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=config.lr)
        self.model = None if config.model == "none" else RewardModel(space, config.kappa)
        self.drawing = Drawing(space, np.random.default_rng(seed))
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
            if (missing := n - len(self.waiting)) > 0:
                self._draw(max(missing, 1 if self.model is None else self.model.together))
        elif n > 0 and not self.waiting and not self.open:
            self._draw(self._batch)
        asked, self.waiting = self.waiting[:n], self.waiting[n:]
        self.open |= {sample.number: sample for sample in asked}
        return [Proposal(sample.number, sample.digits) for sample in asked]

    @property
    def _batch(self) -> int:
        """Candidates of the next update; the first begins the model, which chooses more at once the
        more it knows."""
        if self.model is None:
            return self.config.batch
        if self.updates == 0:
            return self.config.initial
        return max(self.config.batch, self.model.together)

    def _draw(self, n: int) -> None:
        with one_thread("scipy.linalg"):
            chosen = [] if (model := self._believed) is None else self._chosen(model, n)
            digits, logprob = self.policy.sample(n - len(chosen), self.generator)
            if chosen:
                digits = torch.cat([torch.tensor(chosen), digits])
                logprob = self.policy.evaluate(digits)[0].detach()
        for row, value in zip(digits.tolist(), logprob.tolist(), strict=True):
            self.waiting.append(Sample(self.drawn, tuple(row), value))
            self.drawn += 1

    def _chosen(self, model: RewardModel, n: int) -> list[Digits]:
        """Up to `n` candidates of the model's choice."""
        each = max(1, self.config.pool // 3)
        sources = [
            self._samples(each),
            self.drawing.uniform(each),
            self.drawing.mutants(each, model.best(PARENTS)),
        ]
        waiting = [sample.digits for sample in (*self.open.values(), *self.waiting)]
        chosen = model.choose(n, sources, waiting)
        model.let_go()
        return chosen

    def _samples(self, n: int) -> list[Digits]:
        return [tuple(row) for row in self.policy.sample(n, self.generator)[0].tolist()]

    @property
    def _believed(self) -> RewardModel | None:
        """The model, if there is one that predicts anything."""
        model = self.model
        if model is None or model.told < self.config.initial or model.r2 <= 0:
            return None
        return model

    def peek(self, n: int) -> list[Digits]:
        return [sample.digits for sample in self.waiting[:n]]

    def tell(self, proposal: Proposal, reward: Reward) -> None:
        sample = self.open.pop(proposal.number)
        sample.reward = reward
        self.told.append(sample)
        self.seen.append(reward)
        if self.model is not None:
            self.model.tell(sample.digits, reward)
        if self._full:
            batch, self.told = sorted(self.told, key=lambda s: s.number), []
            self._learn(batch)

    @property
    def _full(self) -> bool:
        """Whether the batch is told; in `sync` it is whatever was drawn together."""
        if self.config.mode == "sync":
            return not self.waiting and not self.open
        return len(self.told) >= self._batch

    def revise(self, digits: Digits, reward: Reward) -> None:
        """The policy has learnt from the first reward; the model is to know better."""
        if self.model is not None:
            self.model.revise(digits, reward)

    def _learn(self, batch: Sequence[Sample]) -> None:
        scaled = self.scale([s.reward for s in batch], self.seen)
        told = torch.tensor(scaled, dtype=torch.float64)
        rewards = told.sign() * told.abs() ** self.config.power
        if self.baseline is None:
            self.baseline, self.average = rewards.mean().item(), told.mean().item()
        digits = torch.tensor([s.digits for s in batch])
        logprob = torch.tensor([s.logprob for s in batch])
        with one_thread("scipy.linalg"):
            model = self._believed
            advantage = advantages(
                rewards,
                self.baseline,
                scale=self.config.scale_advantage == "yes",
                least=MIN_SCALE if model is None else max(MIN_SCALE, self._noise(model)),
            )
            done = update(self.policy, self.optimiser, digits, logprob, advantage, self.config)
            if model is not None:
                for _ in range(self.config.dreams):
                    self._dream(model)
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
            **({} if self.model is None else {"R2": 0.0 if model is None else model.r2}),
        }

    def _noise(self, model: RewardModel) -> float:
        """The standard deviation of R ** power from one training of a function to another: the
        model's share of that of all rewards."""
        learnt = np.array(self.scale([*self.seen], self.seen))
        return model.noise * float(np.std(np.sign(learnt) * np.abs(learnt) ** self.config.power))

    def _dream(self, model: RewardModel) -> None:
        """Learn from samples of the policy that the model judges, the best quarter of those that
        are new."""
        new = model.new(self._samples(DREAMT))
        kept = model.most_promising(max(2, len(new) // 4), new)
        bounds = torch.from_numpy(model.at(kept).bound(self.config.kappa)).float()
        model.let_go()
        if len(kept) < 2:
            return
        advantage = (bounds - bounds.min()) / max(bounds.std(correction=0).item(), MIN_SCALE)
        digits = torch.tensor(kept)
        with torch.no_grad():
            logprob = self.policy.evaluate(digits)[0]
        update(
            self.policy, self.optimiser, digits, logprob, advantage, replace(self.config, **DREAM)
        )

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
            **({} if self.model is None else {"model": self.model.state_dict()}),
            "random": self.drawing.random.bit_generator.state,
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
        if "model" in state and self.model is not None:
            self.model.load_state_dict(state["model"])
            self.drawing.random.bit_generator.state = state["random"]
        elif "model" not in state:  # an older run, which goes on as it began
            self.config, self.model = replace(self.config, model="none"), None
        lists = {
            name: [Sample(number, tuple(digits), logprob, reward)
                   for number, digits, logprob, reward in state[name]]
            for name in ("waiting", "open", "told")
        }  # fmt: skip
        self.waiting, self.told = lists["waiting"], lists["told"]
        self.open = {sample.number: sample for sample in lists["open"]}
