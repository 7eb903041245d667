"""CHILDREN: every child model of this package by name. No torch here: a row says where its network
is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from actsearch.search_space.text import load


@dataclass(frozen=True)
class Row:
    """A network in a few words, its class in a module beside this one, and options that its name
    says. Its other options are the class's keyword-only parameters, each with a text."""

    text: str
    module: str
    cls: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def builder(self) -> Callable[..., Any]:
        """What takes make_activation and facts of the data, and returns an nn.Module."""
        return partial(load(f"{__package__}.{self.module}:{self.cls}"), **self.fixed)


def _resnet(depth: int) -> Row:
    return Row(f"the ResNet for CIFAR with {depth} layers", "resnet", "ResNet", {"depth": depth})


CHILDREN: Mapping[str, Row] = {
    **{f"resnet{depth}": _resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet": Row("the ResNet for CIFAR (He et al. 2016a)", "resnet", "ResNet"),
    "trunk_resnet": Row(
        "a ResNet for CIFAR with a linear trunk, in which functions of any growth can learn",
        "trunk_resnet",
        "TrunkResNet",
    ),
    "convnext": Row(
        "a small ConvNeXt (Liu et al. 2022), in which functions of any growth can learn",
        "convnext",
        "ConvNeXt",
    ),
    "preact_resnet": Row(
        "the ResNet with activations before convolutions (He et al. 2016b)",
        "preact_resnet",
        "PreActResNet",
    ),
    "wide_resnet": Row(
        "the Wide ResNet (Zagoruyko and Komodakis 2016)", "preact_resnet", "WideResNet"
    ),
    "densenet": Row("the DenseNet-BC (Huang et al. 2017)", "densenet", "DenseNet"),
    "mlp": Row("a network of linear layers, 784-256-64-10 on MNIST", "mlp", "MLP"),
    "cnn": Row("two convolutions and a hidden layer, without normalisation", "cnn", "CNN"),
    "transformer": Row(
        "the Transformer for translation (Vaswani et al. 2017)", "transformer", "Transformer"
    ),
    "gpt": Row("a decoder, GPT-2's (Radford et al. 2019), to predict text", "gpt", "GPT"),
    "truncated_mlp": Row(
        "the feed-forward network of a post on Swish and MNIST (2017)",
        "truncated_mlp",
        "TruncatedMLP",
    ),
    "keras_cnn": Row("the CNN of many Keras notebooks on MNIST", "keras_cnn", "KerasCNN"),
}
