"""replace_activations(): a function of the grammar in the place of a model's activations.

The model is run once on an example. A module of a matched type is swapped for a `Site`; a matched
function, as `F.relu`, is seen by a TorchFunctionMode, and the module whose own forward calls it
gets a `Site` and two hooks, which from then on intercept the calls of this forward only.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from actsearch.search_space.activation import Activation, check_one_input, read
from actsearch.search_space.expression import Expr

Match = type[nn.Module] | Callable[..., Any]
Make = Callable[[int, int], nn.Module]  # of a width and the dimension that has it
RELU: tuple[Match, ...] = (nn.ReLU, F.relu)

# What other people's models call as activations; gates, such as sigmoid, are not among them.
ACTIVATIONS: tuple[Match, ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.GELU,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.silu, F.mish, F.hardswish, F.gelu,
)  # fmt: skip

# Layer, the dimension of its output that holds its channels, the attribute that says how many.
LAYERS: tuple[tuple[type[nn.Module], int, str], ...] = (
    (_ConvNd, 1, "out_channels"),
    (_NormBase, 1, "num_features"),
    (nn.GroupNorm, 1, "num_channels"),
    (nn.Linear, -1, "out_features"),
    (nn.LayerNorm, -1, "normalized_shape"),
    (nn.RMSNorm, -1, "normalized_shape"),
    (nn.Embedding, -1, "embedding_dim"),
    (nn.MultiheadAttention, -1, "embed_dim"),
)
# The same of libraries that need not be there, by module and name.
NAMED: Mapping[tuple[str, str], tuple[int, str]] = {
    ("transformers.pytorch_utils", "Conv1D"): (-1, "nf"),  # the linear layer of GPT-2
}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # may call whatever they hold


class NoActivationError(ValueError):
    """The model calls no activation that matches."""


def replace_activations(
    model: nn.Module,
    function: str | Expr,
    example: Any,
    *,
    match: Match | Iterable[Match] = RELU,
    channel_dim: int | None = None,
    operators: str | None = None,
    kernels: str = "eager",
) -> int:
    """Put `function` in the place of the activations `match`, and return how many calls of them
    there are in a forward pass; each has parameters of its own.

    `match` holds types of modules and functions of torch, which stand for all their spellings:
    `F.relu` for `torch.relu`, `x.relu()` and `x.relu_()` too. `example` is an input of the model,
    or a tuple of inputs, which is run once, as in training, to see where and how wide they are;
    give a batch of two or more to a model with batch normalisation. `channel_dim` is the dimension
    of the channels; by itself it is the last one after a Linear, LayerNorm or Embedding, and 1
    after other layers. Raises ValueError where no activation that matches is called.

    A module should call its activations in the same order in each pass. `F.relu(x, inplace=True)`
    returns a new tensor, and x stays. A model whose functions were replaced is not for
    torch.compile, which breaks off in them and miscounts; replaced modules are.
    """
    expr, operators = read(function, operators)
    check_one_input(expr, "an activation in a model is called with x alone")
    make = partial(_activation, expr, operators, kernels)
    return put_activations(model, make, example, match=match, channel_dim=channel_dim)


def _activation(expr: Expr, operators: str, kernels: str, width: int, dim: int) -> nn.Module:
    return Activation(expr, width, channel_dim=dim, operators=operators, kernels=kernels)


def put_activations(
    model: nn.Module,
    make: Make,
    example: Any,
    *,
    match: Match | Iterable[Match] = RELU,
    channel_dim: int | None = None,
    check: Callable[[Any], None] = lambda output: None,
) -> int:
    """As replace_activations, with whatever `make(width, channel_dim)` returns; `check` is handed
    the model's output and may raise. Whatever is raised, the model is left as it was."""
    types, names = _sorted_out(match)
    scout = _Scout(make, names, channel_dim)
    swapped = _swap(model, types, scout)
    try:
        check(scout.watch(model, example if isinstance(example, tuple) else (example,)))
        sites = [*dict.fromkeys(site for _, _, _, site in swapped), *scout.called.values()]
        count = sum(len(site.activations) for site in sites)
        if count == 0:
            raise NoActivationError(_nothing(model, types, names, bool(swapped)))
        homes = {owner: _home(model, owner) for owner in scout.called}
    except BaseException:
        for parent, name, module, _ in swapped:
            setattr(parent, name, module)
        raise
    for owner, site in scout.called.items():
        _intercept(owner, site, homes[owner], names)
    _leave_fast_paths(model, {*(parent for parent, _, _, _ in swapped), *scout.called})
    for site in sites:
        site.scout = None
    model.register_forward_pre_hook(_Restart(sites))
    return count


def making(child: str, make_activation: Callable[..., nn.Module]) -> Make:
    """Calls make_activation(width) for channels in dimension 1, and make_activation(width,
    channel_dim=dim) for others; it raises ValueError, which names the child, where that is not
    taken."""

    def make(width: int, dim: int) -> nn.Module:
        if dim == 1:
            return make_activation(width)
        if not _takes_dimension(make_activation):
            raise ValueError(
                f"{child} has channels in the last dimension, so make_activation has to take "
                "channel_dim, as make_activation(64, channel_dim=-1)"
            )
        return make_activation(width, channel_dim=dim)

    return make


def _takes_dimension(make_activation: Callable[..., nn.Module]) -> bool:
    try:
        parameters = inspect.signature(make_activation).parameters
    except (TypeError, ValueError):
        return False
    return "channel_dim" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class _Count(threading.local):
    """Of calls, in each thread; a copy counts from 0."""

    n = 0

    def __reduce__(self) -> tuple[type[_Count], tuple[()]]:
        return _Count, ()


class Site(nn.Module):
    """The activations in the place of one module, or of the functions that one module calls: one
    for each of the calls in a forward pass, since a model may call one ReLU several times, with
    several widths. More calls than in the example, as where a checkpoint computes a block again,
    begin from the first."""

    def __init__(self, scout: _Scout) -> None:
        super().__init__()
        self.scout: _Scout | None = scout  # while the example runs
        self.activations = nn.ModuleList()
        self.calls = _Count()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scout is not None and self.calls.n == len(self.activations):
            self.activations.append(self.scout.made_for(x).train(self.training))
        if not len(self.activations):
            raise RuntimeError(
                "this activation was not called in the example's forward pass, so it is not known "
                "how wide it is; give replace_activations an example that reaches it"
            )
        activation = self.activations[self.calls.n % len(self.activations)]
        self.calls.n += 1
        return activation(x)


class _Restart:
    """Before each forward pass of the model its sites count their calls from 0."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites = sites

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for site in self.sites:
            site.calls.n = 0


class _Scout(TorchFunctionMode):
    """Watches the one run of the example: which modules call matched functions, and after which
    layer."""

    def __init__(self, make: Make, names: tuple[str, ...], channel_dim: int | None) -> None:
        super().__init__()
        self.make = make
        self.functions = _spellings(names)
        self.channel_dim = channel_dim
        self.called: dict[nn.Module, Site] = {}
        self.layer: nn.Module | None = None

    def watch(self, model: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """The model's output."""
        hooks = [
            module.register_forward_hook(self._passed)
            for module in model.modules()
            if _channels(module) is not None
        ]
        try:
            with self:
                return _run_once(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def _passed(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.layer = module

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in self.functions:
            running = list(_running())
            owner = running[0] if running else None
            ours = any(isinstance(module, Site) for module in running)
            # nn.ReLU calls F.relu, and is matched by its type or not at all.
            if owner is not None and type(owner).__module__ != nn.ReLU.__module__ and not ours:
                if owner not in self.called:
                    self.called[owner] = Site(self).train(owner.training)
                return _call(self.called[owner], func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def made_for(self, x: torch.Tensor) -> nn.Module:
        dim = self._dimension(x) if self.channel_dim is None else self.channel_dim
        return self.make(x.shape[dim], dim).to(x.device)

    def _dimension(self, x: torch.Tensor) -> int:
        """That of the layer before, unless only the other one is as wide as the layer: a model may
        move its channels in between, or the layer may (LayerNorm2d of torchvision and timm)."""
        layer = self.layer
        if layer is None or x.ndim < 3 or (known := _channels(layer)) is None:
            return 1
        dim, attribute = known
        dim = 1 if type(layer).__name__.endswith("2d") else dim
        width = getattr(layer, attribute)
        width = width[-1] if isinstance(width, tuple) else width
        fits = [d for d in (dim, -dim) if x.shape[d] == width]
        return fits[0] if fits else dim


def _channels(layer: nn.Module) -> tuple[int, str] | None:
    """The dimension of its channels and the attribute that says how many; None of what is no layer
    that is known."""
    for kind, dim, attribute in LAYERS:
        if isinstance(layer, kind):
            return dim, attribute
    return NAMED.get((type(layer).__module__, type(layer).__name__))


class _Interception(TorchFunctionMode):
    """While `owner` runs: its own calls of the functions go to the site, those of the modules in it
    do not."""

    def __init__(self, owner: nn.Module, site: Site, functions: frozenset[Any]) -> None:
        super().__init__()
        self.owner = owner
        self.site = site
        self.functions = functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in self.functions and next(_running(), None) is self.owner:
            return _call(self.site, func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Enter:
    """Before the forward of a module that calls matched functions."""

    def __init__(self, site: Site, names: tuple[str, ...]) -> None:
        self.site = site
        self.names = names  # and not the functions: some of them cannot be pickled

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        _Interception(module, self.site, _spellings(self.names)).__enter__()


class _Leave:
    """After it, and after an error in it; an error before `_Enter` has left nothing to end."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        mode = torch.overrides._get_current_function_mode()
        if isinstance(mode, _Interception) and mode.site is self.site:
            mode.__exit__(None, None, None)


def _call(site: Site, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    x = args[0] if args else kwargs["input"]
    if func.__name__.endswith("_"):  # x.relu_() may stand as a statement
        return x.copy_(site(x.clone()))
    return site(x)


def _running() -> Iterator[nn.Module]:
    """The modules that are being called in this thread, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            yield frame.f_locals["self"]
        frame = frame.f_back


@lru_cache
def _spellings(names: tuple[str, ...]) -> frozenset[Any]:
    """The functions of these names, also as methods and in place."""
    places = (F, torch, torch.Tensor)
    written = [f"{name}{end}" for name in names for end in ("", "_")]
    return frozenset(getattr(p, name) for p in places for name in written if hasattr(p, name))


def _sorted_out(
    match: Match | Iterable[Match],
) -> tuple[tuple[type[nn.Module], ...], tuple[str, ...]]:
    """The types of modules, and the names of the functions."""
    given = tuple(match) if isinstance(match, Iterable) else (match,)
    types = tuple(m for m in given if isinstance(m, type))
    names: list[str] = []
    for function in (m for m in given if not isinstance(m, type)):
        name = getattr(function, "__name__", repr(function)).removesuffix("_")
        if function not in _spellings((name,)):
            raise ValueError(
                f"match takes types of modules and functions of torch, and {name} is neither; "
                "for example match=(nn.SiLU, F.silu)"
            )
        names.append(name)
    return types, tuple(dict.fromkeys(names))


def _swap(
    model: nn.Module, types: tuple[type[nn.Module], ...], scout: _Scout
) -> list[tuple[nn.Module, str, nn.Module, Site]]:
    """(parent, name, module, site) of each swap; one site for each module, even where the model
    holds it in several places."""
    known: dict[nn.Module, Site] = {}
    swapped: list[tuple[nn.Module, str, nn.Module, Site]] = []
    for parent in list(model.modules()):
        if isinstance(parent, Site):
            continue
        for name, module in list(parent._modules.items()):
            if module is not None and type(module) in types:
                if module not in known:
                    known[module] = Site(scout).train(module.training)
                setattr(parent, name, known[module])
                swapped.append((parent, name, module, known[module]))
    return swapped


def _home(model: nn.Module, owner: nn.Module) -> nn.Module:
    """The module that is to hold the owner's site: itself, or what holds it if it is a container,
    since a Sequential would call the site as a layer."""
    path = next(name for name, module in model.named_modules() if module is owner).split(".")
    for end in range(len(path), -1, -1):
        home = model.get_submodule(".".join(path[:end]))
        if not isinstance(home, CONTAINERS):
            return home
    raise ValueError(
        f"{type(owner).__name__} is a container and calls an activation in its own forward, so "
        "there is no place for the new one; put the model into an nn.Module"
    )


def _intercept(owner: nn.Module, site: Site, home: nn.Module, names: tuple[str, ...]) -> None:
    taken, number = "activations", 1
    while hasattr(home, taken):
        taken, number = f"activations_{number + 1}", number + 1
    home.add_module(taken, site)
    owner.register_forward_pre_hook(_Enter(site, names))
    owner.register_forward_hook(_Leave(site), always_call=True, prepend=True)


def _leave_fast_paths(model: nn.Module, replaced: set[nn.Module]) -> None:
    """A TransformerEncoderLayer would compute relu or gelu itself in eval mode, from its weights;
    and only this path takes the nested tensors that a TransformerEncoder makes."""
    for layer in replaced:
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and replaced & set(module.layers):
            module.use_nested_tensor = False


def _nothing(
    model: nn.Module, types: tuple[type[nn.Module], ...], names: tuple[str, ...], swapped: bool
) -> str:
    wanted = " or ".join([*(t.__name__ for t in types), *(f"{name}()" for name in names)])
    if swapped:
        return f"no {wanted} is called in the forward pass of the example; give one that reaches it"
    if any(isinstance(module, Site) for module in model.modules()):
        return f"the model has no {wanted} to replace any more: it was replaced before"
    found = sorted({type(m).__name__ for m in model.modules() if not list(m.children())})
    return (
        f"the model has no {wanted} to replace; its modules are {', '.join(found)}. "
        "Give match=(nn.SiLU, F.silu, ...)"
    )


@torch.no_grad()
def _run_once(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The output of a forward pass that leaves statistics, mode and randomness as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng():
            return model.train()(*inputs)
    finally:
        for name, buffer in model.named_buffers():
            if name in before:
                buffer.copy_(before[name])
        for module in model.modules():
            module.training = modes.get(module, model.training)
