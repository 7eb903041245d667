"""Recipe: how a child is trained. Plain values, no torch, so that `--help` can show them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SCHEDULES = ("step", "cosine", "constant")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum on cross-entropy. The defaults are the paper's child as far as it says.

    The paper gives ResNet-20, CIFAR-10 and 10,000 steps; batch, rate, momentum, decay and
    augmentation are those of He et al. 2016a, Section 4.2, whose training they name. The `step`
    schedule divides the rate by 10 at 1/2 and at 3/4 of the steps (He et al.: 32k and 48k of 64k);
    `cosine` goes to 0. Betas get no weight decay, as in He et al. 2015 for PReLU.
    `bf16` computes in bfloat16 under torch's autocast, with weights and statistics in float32.
    """

    steps: int = 10_000
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "step"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}"
            )
        for name, lowest in (("steps", 1), ("batch_size", 2)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}={getattr(self, name)} is too small; use {lowest} or more")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be above 0")

    def lr_factor(self, step: int) -> float:
        """The learning rate at `step` (from 0) as a share of `lr`."""
        import math

        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if self.schedule == "step":
            return 0.1 ** ((step >= self.steps / 2) + (step >= self.steps * 3 / 4))
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
