"""What is said of activations since 2015, to be tested alike: the functions, and the children in
which they are tried. No torch here. `docs/studies/registered.md` says what is asked of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actsearch.search_space.baselines import BASELINES, MODERN

SEEDS = 20  # of the verdicts
FIRST_SEED = 200
SWEEP_SEED = 100  # which no verdict sees
RATES = (1.0, 0.5, 2.0)  # times the usual one

FUNCTIONS: Mapping[str, str] = {
    "ReLU": BASELINES["relu"],
    "relu(x)**2": MODERN["relu2"],
    "leaky ReLU squared": MODERN["leaky_relu2"],
    "ASQU": "x * max(x, beta[0.25]*x)",  # openai/parameter-golf#1035
    "smooth ReLU squared": MODERN["smooth_relu2"],
    "GELU": BASELINES["gelu"],
    "Swish-1": BASELINES["swish-1"],
    "Swish": BASELINES["swish"],
    "Mish": MODERN["mish"],
    "Serf": MODERN["serf"],
    "TeLU": MODERN["telu"],
    "GoLU": MODERN["golu"],
    "GELU + 0.1 sin": "gelu(x) + 0.1*sin(x)",  # 2602.05688
    "GELU-sinc": MODERN["gelu_sinc"],
    # 2405.20768: a gate of arctan, whose range opens with a trained beta
    "xATLU": "x * ((1 + 2*beta_a[0])*(0.5 + atan(x)/3.141592653589793) - beta_a)",
    # 2411.03884: of the third order, each weight from a third
    "PolyReLU": "beta[0] + scale[0.3333333333333333](relu(x))"
                " + scale[0.3333333333333333](relu(x)**2)"
                " + scale[0.3333333333333333](relu(x)**3)",
    # The first three of the language model's table by fresh seeds, and of the CNN's the first of
    # the search and the one that was known to hold.
    "beta x cos(x)": "beta * (x * cos(x))",
    "atan(x) cos(x)": "atan(x) * cos(x)",
    "|x| - sinc(x)": "abs(x) - sinc(x)",
    "min(x, sinc(x))": "min(x, sinc(x))",
    "cos(x) - x": "cos(x) - x",
}  # fmt: skip
GELU = "GELU"  # forms are matched to it, and it is the rival


@dataclass(frozen=True)
class Site:
    """A child, its data, its recipe, and the function that a claim has to beat there. `recipe`
    names a published one, `fields` replace parts of it; an `objective` in the place of a child is
    trained at `lr`."""

    text: str
    child: str = ""
    data: tuple[str, ...] = ()  # the first that is there
    recipe: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    objective: str = ""
    lr: float = 0.0
    steps: int = 300
    rival: str = GELU


SITES: Mapping[str, Site] = {
    "mlp": Site(
        "784-256-64-10 on digits", "mlp", ("mnist", "mnist5k"),
        fields={"batch_size": 64, "lr": 3e-3, "weight_decay": 0.0, "schedule": "cosine",
                "optimiser": "adam"},
        steps=600,
    ),
    "pinn": Site(
        "a network that solves an equation of convection",
        objective="actsearch.studies.convection:Convection", lr=6e-3, steps=500,
    ),
    "gpt": Site(
        "a small GPT on Python's library", "gpt", ("stdlib",), "gpt", {"batch_size": 8},
        steps=600, rival="relu(x)**2",
    ),
    "convnext": Site(
        "a small ConvNeXt on images", "convnext", ("cifar10",), "convnext", {"batch_size": 64}
    ),
    "resnet8": Site(
        "a ResNet with activations after normalisation, on images", "resnet8:width=8,size=16",
        ("cifar10",), fields={"batch_size": 64, "schedule": "cosine"},
    ),
}  # fmt: skip
IMAGES = ("convnext", "resnet8")  # whose data --dataset says
