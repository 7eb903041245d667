"""EXPERIMENTS: published comparisons of activations, and what an experiment can be told.

A row has activations, settings (a child and a recipe each), and what was claimed. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from actsearch.options import (
    Count,
    Float,
    Formulas,
    Int,
    OneOf,
    Options,
    Positive,
    RunFolder,
    Text,
    Typed,
    Whole,
)
from actsearch.settings import DataOptions, MachineryOptions
from actsearch.studies.claims import Claim, NoPrediction

CLAIMS = "claims"  # an experiment of its own kind: replicated.py
EARLY = 0.25

LINEAR, SIGMOID, RELU, SWISH_1, SWISH = "linear", "sigmoid", "ReLU", "Swish-1", "Swish-beta"


@dataclass(frozen=True)
class ComparisonOptions(Options):
    """What is compared in an experiment."""

    experiment: Annotated[
        str,
        OneOf("actsearch.studies.published:EXPERIMENTS", also=(CLAIMS,)),
        Typed(place="EXPERIMENT"),
    ]
    """{names}."""
    run: RunFolder = None
    """Folder of the run [runs/EXPERIMENT]."""
    dataset: Text = None
    """mnist, mnist5k, an .npz file, or others as in a search [mnist where it is, else mnist5k]; in
    claims the images of its CNNs [cifar10]."""
    epochs: Int = None
    """Times that the training examples are shown [mnist-mlp 10, mnist-cnn 30]."""
    seeds: Int = None
    """Trainings of each activation in each setting [3, in claims 20]."""
    sigmas: Annotated[tuple[float, ...], Positive("FLOAT ...")] = (0.1, 0.5, 1.0)
    """Standard deviations of mnist-mlp's initial weights."""
    functions: Formulas = ()
    """Further activations, such as '2*x*sigmoid(beta*x)' or gelu."""
    children: Annotated[tuple[str, ...], OneOf("actsearch.studies.replicated:SITES")] = ()
    """Of claims: {names} [all, in this order]."""
    width: Int = None
    """Units of mnist-mlp's first layer [256], or channels of mnist-cnn's first [32]."""
    batch_size: Annotated[int | None, Whole(2)] = None
    """Examples a training step [64]."""
    lr: Float = None
    """Adam's learning rate [mnist-mlp 0.0001, mnist-cnn 0.001]."""
    looks: Count = 40
    """Validations along a training."""


@dataclass(frozen=True)
class ExperimentOptions(DataOptions, MachineryOptions, ComparisonOptions):
    """All that an experiment can be told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigmas:
            raise ValueError("--sigmas needs standard deviations above 0, such as 0.1 0.5")


@dataclass(frozen=True)
class Experiment:
    """`functions` by the names that they have in tables, figures and claims; `children` are the
    settings by name. `epochs`, `lr` and `shuffle` are those of the publication."""

    title: str
    functions: Mapping[str, str]
    children: Callable[[ComparisonOptions], Mapping[str, str]]
    claims: Sequence[Claim | NoPrediction]
    epochs: int
    lr: float
    shuffle: bool


def _sigmas(config: ComparisonOptions) -> Mapping[str, str]:
    width = f",width={config.width}" if config.width else ""
    return {f"sigma {s:g}": f"truncated_mlp:sigma={s}{width}" for s in config.sigmas}


def _cnn(config: ComparisonOptions) -> Mapping[str, str]:
    return {"CNN": f"keras_cnn:width={config.width}" if config.width else "keras_cnn"}


EXPERIMENTS: Mapping[str, Experiment] = {
    "mnist-mlp": Experiment(
        title="Five activations in a 784-256-64-10 network on MNIST",
        functions={
            LINEAR: "x",
            SIGMOID: "sigmoid(x)",
            RELU: "relu(x)",
            SWISH_1: "x*sigmoid(x)",
            SWISH: "x*sigmoid(beta*x)",
        },
        children=_sigmas,
        claims=(
            Claim("sigma 0.1", "ReLU and Swish-1 about equal", "level", SWISH_1, RELU),
            Claim("sigma 0.1", "ReLU and Swish-beta about equal", "level", SWISH, RELU),
            Claim("sigma 0.5", "sigmoid surprisingly good", "no worse", SIGMOID, RELU),
            Claim("sigma 0.5", "Swish ahead of ReLU early", "ahead", SWISH_1, RELU, EARLY),
            Claim("sigma 0.5", "Swish ahead of ReLU early", "ahead", SWISH, RELU, EARLY),
            Claim("sigma 0.5", "Swish and ReLU level at the end", "level", SWISH_1, RELU),
            Claim("sigma 0.5", "Swish and ReLU level at the end", "level", SWISH, RELU),
            Claim("sigma 1", "linear good", "no worse", LINEAR, RELU),
            Claim("sigma 1", "sigmoid good", "no worse", SIGMOID, RELU),
            Claim("sigma 1", "Swish-1 ahead of ReLU early", "ahead", SWISH_1, RELU, EARLY),
            Claim("sigma 1", "Swish-beta clearly better", "clearly ahead", SWISH, RELU),
            Claim("sigma 1", "Swish-beta clearly better", "clearly ahead", SWISH, SWISH_1),
            NoPrediction(SWISH, "net change"),
            NoPrediction(SWISH, "length of the path"),
        ),
        epochs=10,
        lr=1e-4,
        shuffle=False,
    ),
    "mnist-cnn": Experiment(
        title="A Keras CNN on MNIST with ReLU and with Swish",
        functions={
            RELU: "relu(x)",
            SWISH_1: "x*sigmoid(x)",
            SWISH: "x*sigmoid(beta*x)",
            "2x sigmoid(beta x)": "2*x*sigmoid(beta*x)",
        },
        children=_cnn,
        claims=(
            Claim("CNN", "Swish scores higher (0.99671 against 0.99457)", "ahead", SWISH_1, RELU),
            Claim("CNN", "20-30 % more time an epoch with Swish", "dearer", SWISH_1, RELU),
        ),
        epochs=30,
        lr=1e-3,
        shuffle=True,
    ),
}
