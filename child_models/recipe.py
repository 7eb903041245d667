"""Recipe: how a child is trained, and the published ones. Plain values, no torch, so that `--help`
can show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from actsearch.search_space.text import check_among

# The learning rate's factor at a step (from 0) of so many. Published schedules are of absolute
# steps; as shares of the training they can be shortened.
SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    # He et al. 2016a, Section 4.2: 32k and 48k of 64k steps
    "step": lambda step, steps: 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4)),
    # He et al. 2016b: the same, and a tenth of the rate in the first 400 of 64k steps
    "warm-step": lambda step, steps: (
        0.1 if step < steps / 160 else SCHEDULES["step"](step, steps)
    ),
    # Zagoruyko and Komodakis 2016: a fifth at epochs 60, 120 and 160 of 200
    "wide-step": lambda step, steps: 0.2 ** sum(step >= steps * at for at in (0.3, 0.6, 0.8)),
    # Vaswani et al. 2017, equation 3, as a share of its peak: 4,000 of 100,000 steps to warm up
    "inverse-sqrt": lambda step, steps: min(
        (step + 1) / (0.04 * steps), math.sqrt(0.04 * steps / (step + 1))
    ),
    "cosine": lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
    # Brown et al. 2020, Appendix B: up in a line, then a cosine to a tenth; here 20 of 600 steps up
    "warm-cosine": lambda step, steps: (
        min(1.0, 30 * (step + 1) / steps) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
    ),
    "constant": lambda step, steps: 1.0,
}
OPTIMISERS = ("sgd", "nesterov", "adam", "adam-0.98", "adamw")
PRECISIONS = ("fp32", "tf32", "bf16")
LOSSES = ("softmax", "sigmoid", "mse", "huber", "l1")  # which task knows which: data/tasks.py
WITH_MOMENTUM = ("sgd", "nesterov")


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. The defaults are the paper's child as far as it says.

    The paper gives ResNet-20, CIFAR-10 and 10,000 steps; batch, rate, momentum, decay and
    augmentation are those of He et al. 2016a, Section 4.2, whose training they name. Betas get no
    weight decay, as in He et al. 2015 for PReLU. `momentum` is of sgd and nesterov; adam has the
    decay rates 0.9 and 0.999, adam-0.98 those of Vaswani et al. 2017, and adamw 0.9 and 0.95, with
    a weight decay of matrices and embeddings alone (Brown et al. 2020, Appendix B). `clip` is the
    norm to which a longer gradient is scaled down, 0 never. `softmax` is cross-entropy,
    `sigmoid` the mean of the classes' binary cross-entropies; `mse`, `huber` (from 1 deviation of
    the targets on linear) and `l1` are of standardised targets. `bf16` computes in bfloat16 under
    torch's autocast, with weights and statistics in float32. `tf32` lets a GPU round the factors of
    products to 10 bits, which torch otherwise does in convolutions; `fp32` does not.
    """

    steps: int = 10_000
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "step"
    precision: str = "fp32"
    optimiser: str = "sgd"
    label_smoothing: float = 0.0
    loss: str = "softmax"
    shuffle: bool = True
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("optimiser", OPTIMISERS),
            ("loss", LOSSES),
        ):
            check_among(name, getattr(self, name), known)
        for name, lowest in (("steps", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if value < lowest or value != int(value):
                raise ValueError(f"{name}={value} must be a whole number of {lowest} or more")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} must be a number above 0")
        for name in ("clip", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number of 0 or more")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must be from 0 to below 1")
        if self.optimiser == "nesterov" and self.momentum == 0:
            raise ValueError("optimiser nesterov needs a momentum above 0; without one it is sgd")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be from 0 to below 1")

    def lr_factor(self, step: int) -> float:
        """The learning rate at `step` (from 0) as a share of `lr`."""
        return SCHEDULES[self.schedule](step, self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For a run's identity. Fields that came after the first version are left out at their
        defaults, so that older runs keep theirs."""
        later = {f.name: f.default for f in fields(self) if f.name not in _FIRST}
        return {k: v for k, v in vars(self).items() if k not in later or v != later[k]}


_FIRST = ("steps", "batch_size", "lr", "momentum", "weight_decay", "schedule", "precision")

# An epoch of a publication counts as 352 steps of 128 or 704 of 64: 45,000 images, with the smaller
# batch at their end. The trainer leaves that out, so it goes through the images every 351 or 703
# steps: 200.6 times in 200 epochs, 300.4 times in 300.
RECIPES: Mapping[str, Recipe] = {
    "he2016a": Recipe(steps=64_000),
    "he2016b": Recipe(steps=64_000, schedule="warm-step"),
    "wide_resnet": Recipe(
        steps=70_400, weight_decay=5e-4, schedule="wide-step", optimiser="nesterov"
    ),
    "densenet": Recipe(steps=211_200, batch_size=64, optimiser="nesterov"),
    # Vaswani et al. 2017, base model: the peak of its rate is (512 x 4,000)^-1/2
    "transformer": Recipe(
        steps=100_000, batch_size=256, lr=7e-4, weight_decay=0.0, schedule="inverse-sqrt",
        optimiser="adam-0.98", label_smoothing=0.1,
    ),
    # of a child of 120,576 parameters: docs/language_models.md
    "gpt": Recipe(
        steps=600, batch_size=8, lr=3e-3, weight_decay=0.1, schedule="warm-cosine",
        optimiser="adamw", clip=1.0,
    ),
    # of a small ConvNeXt: docs/children.md
    "convnext": Recipe(
        steps=200, batch_size=64, lr=2e-3, weight_decay=0.05, schedule="warm-cosine",
        optimiser="adamw", clip=1.0,
    ),
    # of small networks on tables: docs/models.md
    "tabular": Recipe(
        steps=300, batch_size=64, lr=1e-2, weight_decay=1e-2, schedule="warm-cosine",
        optimiser="adamw", clip=1.0, loss="mse",
    ),
}  # fmt: skip

RECIPE_NAMES = ("published", *RECIPES)  # the first is the child's own


# The recipe of the paper that each child is from, by the child's name without its options.
PUBLISHED: Mapping[str, str] = {
    **{f"resnet{n}": "he2016a" for n in ("", 8, 14, 20, 32, 44, 56, 110)},
    "preact_resnet": "he2016b",
    "wide_resnet": "wide_resnet",
    "densenet": "densenet",
    "convnext": "convnext",
    "transformer": "transformer",
    "gpt": "gpt",
}

# Children to which the settings of no preset apply: their recipe stands where nothing else is said.
ALWAYS_PUBLISHED = ("convnext", "gpt")


def recipe_settings(name: str | None, child: Any) -> dict[str, Any]:
    """All settings of the recipe of that name, or of `child`'s `published` one; {} for None.

    Raises ValueError for a name that is not known, or a child that has no published recipe.
    """
    if name is None:
        return {}
    if name == "published":
        name = PUBLISHED.get(_plain(child))
        if name is None:
            raise ValueError(
                f"there is no published recipe of {child}, only of {', '.join(PUBLISHED)}; "
                f"choose one of {', '.join(RECIPES)}, or give --steps, --lr and the rest"
            )
    check_among("recipe", name, RECIPE_NAMES)
    return dict(vars(RECIPES[name]))


def usual_settings(child: Any) -> dict[str, Any]:
    """Those settings of a training that come with `child`, whatever the preset; its precision is
    the machine's choice."""
    if _plain(child) not in ALWAYS_PUBLISHED:
        return {}
    return settings_of(PUBLISHED[_plain(child)])


def settings_of(recipe: str) -> dict[str, Any]:
    """Those of a recipe of that name, but for its precision."""
    settings = dict(vars(RECIPES[recipe]))
    del settings["precision"]
    return settings


def _plain(child: Any) -> str:
    """The name of a child without its options; "" of an object."""
    return child.partition(":")[0] if isinstance(child, str) else ""
