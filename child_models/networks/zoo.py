"""child_from(): a child by its name with its options, `name:option=value,...`, of CHILDREN, or of
another package as `torchvision:NAME` and `timm:NAME` (model_zoos.py).

A user's own child is any function of `make_activation` that returns an nn.Module; it is handed
`input_shape` and `classes` (of targets `targets`, of sentences `vocabulary` and `length`, of text
`vocabulary` and `context`) too if it has parameters of these names. Or it is a model that is built
already, or a function without arguments that builds one (ready.py). Text names either, as
`my_module:net`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from torch import nn

from actsearch.child_models.networks.children import CHILDREN
from actsearch.child_models.networks.model_zoos import ZOOS, zoo_model
from actsearch.child_models.networks.ready import BUILDS, Ready, digest, note, ready
from actsearch.child_models.source_digest import digest_of, function_of
from actsearch.child_models.users_code import by_value, found, from_bytes, is_module
from actsearch.search_space import text as options
from actsearch.search_space.activation import MakeActivation
from actsearch.search_space.text import unknown

Builder = Callable[..., nn.Module]

# Networks that are not what they were under the same name, with what is new. Their digest says it,
# so that no run takes up, or compares itself with, trainings of the former one.
CHANGED: Mapping[str, str] = {"densenet": "fan-out"}


@dataclass(frozen=True)
class Child:
    """A builder with its options bound; `name` is how it is written, `digest` what a run's identity
    keeps, `note` what people should know before a search."""

    name: str
    build: Builder = field(compare=False, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    note: str = field(default="", compare=False)
    by_value: bool = field(default=False, compare=False, repr=False)  # sent to workers so

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.name, self.options, self.digest, self.note)
        if not self.by_value:
            return _child, (self.build, *rest)
        sent = by_value(self.build, f"the child {self.name}", [function_of(self.build)])
        return _received, (sent, *rest)

    def check_sent(self) -> None:
        """Raises ValueError where it holds what no worker can be sent."""
        if isinstance(self.build, Ready):
            self.build.check_sent()
        elif self.by_value:
            self.__reduce__()

    @property
    def is_ready(self) -> bool:
        """Whether it is a model that puts no candidate into its place itself."""
        return isinstance(self.build, Ready)

    def __call__(self, make_activation: MakeActivation, **facts: Any) -> nn.Module:
        """The network for data with these facts, of which it takes what it asks for: input_shape
        and classes, vocabulary and length of sentences, or vocabulary and context of text. Raises
        ValueError where it asks for others."""
        _, *accepted = inspect.signature(self.build).parameters.values()
        given = {p.name: facts[p.name] for p in accepted if p.name in facts} | {**self.options}
        missing = [p.name for p in accepted if p.default is p.empty and p.name not in given]
        if missing:
            raise ValueError(
                f"{self.name} asks for {' and '.join(missing)}, but what these data say is named "
                f"{' and '.join(facts)} (sentences go with transformer, text with gpt, images "
                "with others, targets with a model of your own)"
            )
        return self.build(make_activation, **given)


def child_from(
    child: str | Child | Builder | nn.Module, *, match: Any = None, example: Any = None
) -> Child:
    """A Child from `resnet8`, `resnet8:width=8,size=16`, `torchvision:mobilenet_v2:size=64`, a
    function of make_activation, a model that is built already, a function without arguments that
    builds one, or `my_module:net`, which names one of the last three.

    `match` and `example` are of models that are built without make_activation: what gives way to
    the candidate [all common activations], as types of modules and functions of torch, and a batch
    of inputs. Raises ValueError for a name or an option that is not known, and ModuleNotFoundError
    for a zoo that is not installed.
    """
    named = isinstance(child, str) and _names_users_own(child)
    if named:
        child = found(child, "child", "my_module:net")
    if isinstance(child, nn.Module) or (callable(child) and _builds_alone(child)):
        return _ready(child, match, example)
    if match is not None or example is not None:
        said = "match" if match is not None else "example"
        raise ValueError(
            f"{said} is for a model that is built already, or for {BUILDS}; the child {child} "
            "puts the candidate into its place itself, so leave it out"
        )
    if isinstance(child, Child):
        return child
    if callable(child):
        return replace(_users_own(child), by_value=named)
    if not isinstance(child, str):
        raise ValueError(
            f"the child is a {type(child).__name__}; give a name, a function of make_activation, "
            "or an nn.Module"
        )
    name, build, text = _found(child)
    known = {option.name: option.kind for option in options_of(build)}
    usual = {option.name: option.default for option in options_of(build)}
    chosen = options.read(name, text, known)
    for key, value in chosen.items():
        if known[key] is int and value < (least := 0 if usual[key] == 0 else 1):
            raise ValueError(
                f"{name}:{key}={value} needs a whole number of {least} or more, as {key}=8"
            )
        if known[key] is float and not 0 < value < math.inf:
            raise ValueError(f"{name}:{key}={value} needs a number above 0, as {key}=0.1")
    written = options.written(name, chosen)
    digest = f"{written} ({CHANGED[name]})" if name in CHANGED else written
    return Child(written, build, chosen, digest)


def _found(child: str) -> tuple[str, Builder, str]:
    """The name of a child, what builds it, and its options in text."""
    name, text = options.split(child)
    if name in ZOOS:
        model, text = options.split(text)
        return f"{name}:{model}", zoo_model(name, model), text
    if name not in CHILDREN:
        zoos = (f"{zoo}:NAME" for zoo in ZOOS)
        raise ValueError(unknown("child", name, [*CHILDREN, *zoos, "my_module:NAME"]))
    return name, CHILDREN[name].builder(), text


def options_of(build: Builder) -> list[options.Option]:
    """The options of a child: its keyword-only parameters, but for facts of the data."""
    return [
        options.Option(
            p.name,
            float if isinstance(p.default, float) else int,
            p.default,
            next(iter(get_args(p.annotation)[1:]), ""),
        )
        for p in inspect.signature(build, eval_str=True).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in ("input_shape", "classes")
    ]


def _names_users_own(child: str) -> bool:
    """Whether it is as `my_module:net`, rather than a name with options."""
    name, _, rest = child.partition(":")
    ours = name in (*CHILDREN, *ZOOS)
    return not ours and rest != "" and "=" not in rest and is_module(name)


def _builds_alone(build: Callable[..., Any]) -> bool:
    return not isinstance(build, Child) and not inspect.signature(build).parameters


def _ready(model: nn.Module | Callable[[], Any], match: Any, example: Any) -> Child:
    build = ready(model, match, example)
    return Child(build.name, build, {}, digest=f"{build.name}-{digest(build)}", note=note(build))


def _users_own(build: Builder) -> Child:
    name = getattr(build, "__qualname__", type(build).__qualname__)
    return Child(name, build, {}, digest=f"{name}-{digest_of(build)}")


def _child(build: Builder, name: str, options: Mapping[str, Any], digest: str, note: str) -> Child:
    return Child(name, build, options, digest, note)


def _received(sent: bytes, *rest: Any) -> Child:
    return _child(from_bytes(sent), *rest)
