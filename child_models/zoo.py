"""CHILDREN: every child model by name, with the options it takes as `name:option=value,...`. Those
of other packages are named as `torchvision:NAME` and `timm:NAME` (model_zoos.py).

A user's own child is any function of `make_activation` that returns an nn.Module; it is handed
`input_shape` and `classes` (of sentences `vocabulary` and `length`) too if it has parameters of
these names.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from child_models.cnn import CNN
from child_models.densenet import DenseNet
from child_models.image_network import MakeActivation
from child_models.keras_cnn import KerasCNN
from child_models.mlp import MLP
from child_models.model_zoos import ZOOS, zoo_model
from child_models.preact_resnet import PreActResNet, WideResNet
from child_models.resnet import ResNet
from child_models.transformer import Transformer
from child_models.truncated_mlp import TruncatedMLP
from search_space import options
from search_space.operators import unknown

Builder = Callable[..., nn.Module]

CHILDREN: dict[str, Builder] = {
    "resnet8": partial(ResNet, depth=8),
    "resnet14": partial(ResNet, depth=14),
    "resnet20": partial(ResNet, depth=20),
    "resnet32": partial(ResNet, depth=32),
    "resnet44": partial(ResNet, depth=44),
    "resnet56": partial(ResNet, depth=56),
    "resnet110": partial(ResNet, depth=110),
    "resnet": ResNet,
    "preact_resnet": PreActResNet,
    "wide_resnet": WideResNet,
    "densenet": DenseNet,
    "mlp": MLP,
    "cnn": CNN,
    "transformer": Transformer,
    "truncated_mlp": TruncatedMLP,
    "keras_cnn": KerasCNN,
}


@dataclass(frozen=True)
class Child:
    """A builder with its options bound; `name` is how it is written, `digest` what a run's identity
    keeps."""

    name: str
    build: Builder = field(compare=False, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __call__(self, make_activation: MakeActivation, **facts: Any) -> nn.Module:
        """The network for data with these facts, of which it takes what it asks for: input_shape
        and classes, or vocabulary and length of sentences. Raises ValueError where it asks for
        others."""
        _, *accepted = inspect.signature(self.build).parameters.values()
        given = {p.name: facts[p.name] for p in accepted if p.name in facts} | {**self.options}
        missing = [p.name for p in accepted if p.default is p.empty and p.name not in given]
        if missing:
            raise ValueError(
                f"{self.name} asks for {' and '.join(missing)}, but the data say "
                f"{' and '.join(facts)}: images have other children than sentences"
            )
        return self.build(make_activation, **given)


def child_from(child: str | Child | Builder) -> Child:
    """A Child from `resnet8`, `resnet8:width=8,size=16`, `torchvision:mobilenet_v2:size=64`, or a
    function of make_activation.

    Raises ValueError for a name or an option that is not known, and ModuleNotFoundError for a zoo
    that is not installed.
    """
    if isinstance(child, Child):
        return child
    if callable(child):
        return _users_own(child)
    name, text = options.split(child)
    build = CHILDREN.get(name)
    if name in ZOOS:
        model, text = options.split(text)
        name, build = f"{name}:{model}", zoo_model(name, model)
    if build is None:
        raise ValueError(unknown("child", name, [*CHILDREN, *(f"{zoo}:NAME" for zoo in ZOOS)]))
    known = {
        p.name: float if isinstance(p.default, float) else int
        for p in inspect.signature(build).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in ("input_shape", "classes")
    }
    chosen = options.read(name, text, known)
    for key, value in chosen.items():
        if known[key] is int and value < 1:
            raise ValueError(f"{name}:{key}={value} needs a whole number of 1 or more, as {key}=8")
        if not 0 < value < math.inf:
            raise ValueError(f"{name}:{key}={value} needs a number above 0, as {key}=0.1")
    written = options.written(name, chosen)
    return Child(written, build, chosen, digest=written)


def _users_own(build: Builder) -> Child:
    name = getattr(build, "__qualname__", type(build).__qualname__)
    return Child(name, build, {}, digest=f"{name}-{source_digest(build)}")


def source_digest(function: Callable[..., Any]) -> str:
    """The hash of a function's source: an edited model or operator makes another run."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        source = repr((code.co_code, code.co_consts) if code else function)
    return hashlib.sha256(source.encode()).hexdigest()[:12]
