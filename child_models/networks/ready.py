"""Ready: a model that is built already, or a function that builds one, as a child.

Each training has a model of its own, in which the candidate stands in the place of what the model
calls as activations (replacement.py). A built one is copied, and each of its modules that can draws
its parameters anew from the training's seed, as its constructor does; what a function builds is
taken as it is.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy

from actsearch.child_models.device import own_randomness, short
from actsearch.child_models.networks.replacement import (
    ACTIVATIONS,
    Match,
    NoActivationError,
    making,
    put_activations,
)
from actsearch.child_models.source_digest import digest_of, function_of, is_installed, plain, told
from actsearch.child_models.users_code import by_value, found, from_bytes

BUILDS = "a function without arguments that builds the model"
MATCH = "nn.GELU,F.gelu"  # an example
PREFIXES = {"nn": nn, "F": F}
OF_EVERY_MODULE = vars(nn.Module()).keys()


@dataclass(frozen=True)
class Form:
    """Of data that have this fact: what a model is given of them, and the shape of what it has to
    return for so many examples. `in_words` is that for people."""

    fact: str
    blank: Callable[[Mapping[str, Any]], torch.Tensor]
    returns: Callable[[Mapping[str, Any]], tuple[int, ...]]
    in_words: str


def _inputs(facts: Mapping[str, Any]) -> torch.Tensor:
    return torch.zeros(2, *facts["input_shape"])


FORMS = (
    Form("classes", _inputs, lambda facts: (facts["classes"],), "a logit for each class"),
    Form("targets", _inputs, lambda facts: (facts["targets"],), "a number for each target"),
    Form(
        "context",
        lambda facts: torch.zeros(2, facts["context"], dtype=torch.long),
        lambda facts: (facts["context"], facts["vocabulary"]),
        "at each place a logit for each token (actsearch.tokens(ids, vocabulary=N) says how many)",
    ),
)


@dataclass(frozen=True, eq=False)
class Ready:
    """Builds the model for one training. `model` is a module or a function that builds one, `match`
    what the candidate replaces, and `example` a batch of inputs by which places and widths are
    found [two blank ones]."""

    name: str
    model: nn.Module | Callable[[], Any]
    match: tuple[Match, ...]
    example: torch.Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The class may have been the user's script's, and parts of a model hold it by name.
        own = isinstance(self.model, nn.Module)
        homes = _own_classes(self.model) if own else [function_of(self.model)]
        parts = (self.model, self.match, self.example)
        return _received, (self.name, by_value(parts, f"the child {self.name}", homes))

    def __call__(
        self,
        make_activation: Callable[..., nn.Module],
        *,
        input_shape: tuple[int, ...] | None = None,
        classes: int | None = None,
        targets: int | None = None,
        vocabulary: int | None = None,
        context: int | None = None,
    ) -> nn.Module:
        """Raises ValueError where the model calls none of `match`, cannot take such inputs, or
        returns something else than the data ask for."""
        named = {"input_shape": input_shape, "classes": classes, "targets": targets,
                 "vocabulary": vocabulary, "context": context}  # fmt: skip
        facts = {name: fact for name, fact in named.items() if fact is not None}
        form = next((form for form in FORMS if form.fact in facts), None)
        if form is None:
            raise ValueError(
                f"the child {self.name} is a ready model, which can classify, predict targets or "
                "be a language model, and these data are for something else"
            )
        example = self._example(form.blank(facts))
        model = Outputs(self.fresh())
        try:
            put_activations(
                model,
                making(self.name, make_activation),
                example,
                match=self.match,
                check=partial(self._check, (len(example), *form.returns(facts)), form.in_words),
            )
        except NoActivationError as error:
            raise ValueError(f"the child {self.name}: {self._nothing(error)}") from None
        except WrongOutputs:
            raise
        except Exception as error:
            raise ValueError(
                f"the child {self.name} fails on inputs of shape {tuple(example.shape)} "
                f"({type(error).__name__}: {short(error)}); give a model for such inputs"
            ) from error
        return model

    def _example(self, blank: torch.Tensor) -> torch.Tensor:
        """What places are found by; raises ValueError where the data's inputs are others."""
        if self.example is None:
            return blank
        example = self.example if blank.is_floating_point() else self.example.long()
        floats = self.example.is_floating_point() == blank.is_floating_point()
        if example.shape[1:] != blank.shape[1:] or len(example) == 0 or not floats:
            raise ValueError(
                f"the example has shape {tuple(example.shape)} and type {self.example.dtype}, but "
                f"the data's inputs have (n, {', '.join(map(str, blank.shape[1:]))}) and "
                f"{blank.dtype}; give some of them, as x[:2], or leave it out"
            )
        return example

    def _nothing(self, error: NoActivationError) -> str:
        if self.match != ACTIVATIONS:
            return str(error)
        leaves = {type(m).__name__ for m in self.fresh().modules() if not [*m.children()]}
        return (
            "the model calls none of the usual activations, such as nn.ReLU or F.gelu; its modules "
            f"are {', '.join(sorted(leaves))}. Say what gives way to the candidate, as "
            f"match=(MyGate, F.sigmoid), or --match my_module:MyGate,F.sigmoid"
        )

    def check_sent(self) -> None:
        """Raises ValueError where it holds what no worker can be sent."""
        self.__reduce__()

    @cached_property
    def kept(self) -> dict[str, torch.Tensor]:
        """As `kept` of its model; of a function nothing is known."""
        return kept(self.model) if isinstance(self.model, nn.Module) else {}

    def _check(self, wanted: tuple[int, ...], in_words: str, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
        if shape == wanted or (shape == wanted[:1] and wanted[1:] == (1,)):
            return
        returned = f"a {type(output).__name__}" if shape is None else f"{shape}"
        raise WrongOutputs(
            f"the child {self.name} returns {returned} for {wanted[0]} examples, and these data "
            f"need {in_words}: {wanted}"
        )

    def fresh(self) -> nn.Module:
        """A model that no other training has, with its initial parameters."""
        if isinstance(self.model, nn.Module):
            return _copied(self.model, self.name).apply(_begin_anew)
        built = self.model()
        if not isinstance(built, nn.Module):
            raise ValueError(
                f"the child {self.name} returns a {type(built).__name__}; give {BUILDS}, an "
                "nn.Module, or a function of make_activation"
            )
        _check_device(built, self.name)
        return _copied(built, self.name)  # it may be one that was built once


class WrongOutputs(ValueError):
    """A model that does not return what the data ask for."""


class Outputs(nn.Module):
    """`model`, of whose result the logits are taken where it names them, as models of transformers
    do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.model(x)
        return getattr(found, "logits", found)


def ready(model: nn.Module | Callable[[], Any], match: Any = None, example: Any = None) -> Ready:
    """Raises ValueError for what cannot be matched, an example that is no array, and a model that
    lies on another device than the processor."""
    own = isinstance(model, nn.Module)
    name = type(model).__name__ if own else getattr(model, "__qualname__", type(model).__name__)
    if isinstance(model, nn.Module):
        _check_device(model, name)
    return Ready(name.split(".<locals>.")[-1], model, _matches(match), _tensor(example))


def _matches(match: Any) -> tuple[Match, ...]:
    """From types and functions, or text such as `nn.GELU,F.gelu,my_module:Gate`."""
    if match is None:
        return ACTIVATIONS
    if isinstance(match, str):
        return tuple(_named(word.strip()) for word in match.split(","))
    if not (given := tuple(match) if isinstance(match, Iterable) else (match,)):
        raise ValueError(f"match is empty; leave it out, or give some, as match=({MATCH})")
    return given


def _named(word: str) -> Match:
    prefix, _, name = word.partition(".")
    if ":" not in word and prefix in PREFIXES and hasattr(PREFIXES[prefix], name):
        return getattr(PREFIXES[prefix], name)
    if ":" in word:
        return found(word, "match", "my_module:Gate")
    raise ValueError(
        f"match {word!r} is no activation of torch; write it as {MATCH}, and one of another module "
        "as my_module:Gate"
    )


def _tensor(example: Any) -> torch.Tensor | None:
    if example is None or isinstance(example, torch.Tensor):
        return example if example is None else example.detach().cpu()
    array = np.asarray(example)
    if array.ndim == 0 or not np.issubdtype(array.dtype, np.number):
        raise ValueError(
            f"the example is a {type(example).__name__}; give a batch of inputs, as x[:2]"
        )
    floats = np.issubdtype(array.dtype, np.floating)
    return torch.tensor(array, dtype=torch.float32 if floats else torch.long)


def _check_device(model: nn.Module, name: str) -> None:
    for key, tensor in _tensors(model):
        if is_lazy(tensor):
            raise ValueError(
                f"the child {name} does not know the shape of {key} yet; call it once, model(x[:2])"
            )
        if tensor.device.type != "cpu":
            raise ValueError(
                f"the child {name} has {key} on {tensor.device}; give it on the processor "
                "(model.cpu()): each training moves a copy to the device of its worker"
            )


def _copied(model: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"the child {name} cannot be copied for each training ({short(error)}); give {BUILDS}"
        ) from error


# -- where its parameters begin


def _begin_anew(module: nn.Module) -> None:
    """As its constructor does, if it says how."""
    reset = _reset_of(module)
    if reset is not None:
        reset()


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    """torch's own modules call it `reset_parameters`, nn.MultiheadAttention and nn.Transformer with
    an underscore."""
    names = ("reset_parameters", "_reset_parameters")
    return next((f for f in (getattr(module, n, None) for n in names) if callable(f)), None)


def kept(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that begin in every training as they are in the model, by name:
    those that come out differently where they were different before."""
    begun: list[dict[str, torch.Tensor]] = []
    for other in (False, True):
        copied = _copied(model, type(model).__name__)
        for _, tensor in _tensors(copied) if other else ():
            tensor.data = (tensor.detach() == 0).to(tensor.dtype)
        with own_randomness(0, torch.device("cpu")):
            begun.append(dict(_tensors(copied.apply(_begin_anew))))
    return {n: t for n, t in _tensors(model) if not torch.equal(begun[0][n], begun[1][n])}


def note(child: Ready) -> str:
    """What people should know of where a child's parameters begin, or ""."""
    if not isinstance(child.model, nn.Module):
        return ""
    parameters = dict(child.model.named_parameters())
    if not (names := [name for name in child.kept if name in parameters]):
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    begin = "begins" if len(names) == 1 else "begin"
    return (
        f"{names[0]}{more} {begin} as given in every training, since no reset_parameters() draws "
        f"them anew; {BUILDS} draws all"
    )


# -- what it is


def digest(child: Ready) -> str:
    """The hash of all that outcomes depend on: of the model its structure, its plain attributes and
    functions, the shapes of its parameters and buffers, the values of those that are kept, `match`,
    and the source of what is not of an installed library. It is the same in each process."""
    own = isinstance(child.model, nn.Module)
    with own_randomness(0, torch.device("cpu")):
        model = child.model if isinstance(child.model, nn.Module) else child.fresh()
    sha = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode())
    told = [
        *(f"{name}{tuple(t.shape)}{t.dtype}{t.requires_grad}" for name, t in _tensors(model)),
        *_attributes(model),
        *(str(plain(value)) for value in child.kept.values()),
        *([] if child.match == ACTIVATIONS else map(_called, child.match)),
        *(digest_of(cls) for cls in _own_classes(model)),
        *([] if own else [digest_of(child.model)]),
    ]
    for words in told:
        sha.update(words.encode())
    return sha.hexdigest()[:12]


def _called(match: Match) -> str:
    return getattr(match, "__qualname__", repr(match))


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _attributes(model: nn.Module) -> Iterator[str]:
    """Numbers, texts, functions and the like that modules keep beside parameters, such as a number
    of heads."""
    for name, module in model.named_modules():
        for key, value in sorted(vars(module).items()):
            if key in OF_EVERY_MODULE or _holds_tensors(key, value):
                continue
            if (text := told(value)) is not None:
                yield f"{name}.{key}={text}"


def _holds_tensors(key: str, value: Any) -> bool:
    """Of torch's own, as an LSTM's list of its weights, which are parameters besides."""
    several = isinstance(value, list | tuple)
    return key.startswith("_") and any(
        isinstance(part, torch.Tensor) for part in (value if several else [value])
    )


def _own_classes(model: nn.Module) -> list[type]:
    """Of the modules in it, those that are of no installed library."""
    types = {t for m in model.modules() for t in type(m).__mro__}
    return sorted((t for t in types if not is_installed(t)), key=lambda t: t.__qualname__)


def _received(name: str, sent: bytes) -> Ready:
    return Ready(name, *from_bytes(sent))
