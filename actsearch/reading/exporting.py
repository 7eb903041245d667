"""export(): a function as source code of another language, with the betas of a trained model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from actsearch.errors import EnvironmentProblem, UsageError
from actsearch.functions import Found, find, one_function
from actsearch.results.version import own_version
from actsearch.search_space.baselines import NAMED
from actsearch.search_space.candidate import Candidate, OneFunction
from actsearch.search_space.export.exporters import EXPORTERS, check_name
from actsearch.search_space.export.lowering import Exported
from actsearch.search_space.expression import Expr, formula
from actsearch.search_space.space import Space, extra_operators
from actsearch.search_space.survey import describe
from actsearch.search_space.text import check_among

WRAPPED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep a state_dict
Betas = tuple[tuple[float, ...], ...]  # of an activation: for each beta one value, or one a channel


def export(
    function: str | Expr,
    to: str = "torch",
    *,
    operators: str | None = None,
    weights: str | Path | None = None,
    layer: str | None = None,
    name: str | None = None,
    dims: int = 4,
    space: Space | None = None,
) -> str | bytes:
    """The source code of `function` in the language `to`; bytes for onnx.

    `function` is an expression, a formula, a baseline's name, or RUN#RANK, as `runs/tiny#3`. Where
    it has a function for each group of layers, they are called name_1, name_2 and so on.
    `operators` is the operator set [that of the run, else guarded]. `weights` is a file with the
    state_dict of a model that holds the function as `Activation`: its betas become the initial
    ones; `layer` says whose, where they differ. `name` is what the function is called. `dims` is
    the rank of the input of onnx. `space` is needed only for operators of your own. Raises
    ValueError or one of actsearch.errors, each with a sentence.
    """
    check_among("language", to, EXPORTERS)
    if dims < 2:
        raise ValueError(f"--dims {dims} is too small; x has at least the dimensions N and C")
    found = find(function, operators, extra_operators(space) if space is not None else ())
    candidate = found.candidate if EXPORTERS[to].several else _alone(found, to)
    functions = candidate.functions
    betas = [_initial(expr) for expr in functions]
    if weights is not None:
        if not EXPORTERS[to].values:
            raise UsageError(f"--to {to} shows betas by name, so --from-weights changes nothing")
        betas = [trained_betas(Path(weights), one_function(candidate).betas, layer)]
    elif layer is not None:
        raise UsageError(f"--layer {layer} chooses among the layers of --from-weights; give both")
    asked = function if isinstance(function, str) and function in NAMED else _name(found)
    named = check_name(name) if name is not None else asked.replace("-", "_")
    version = own_version()
    alone = len(functions) == 1
    sources = [
        Exported(
            expr,
            found.operators,
            named if alone else f"{named}_{number}",
            own,
            version,
            found.origin,
            dims,
            alone,
        )
        for number, (expr, own) in enumerate(zip(functions, betas, strict=True), 1)
    ]
    return EXPORTERS[to].write(*sources)


def _alone(found: Found, to: str) -> Candidate:
    """The candidate for a language of one function a file; groups that all have the same function
    are that function."""
    first, *others = found.candidate.functions
    if others and len(found.candidate.canonical(found.operators).functions) > 1:
        raise UsageError(
            f"--to {to} writes one function a file, and {found.candidate.formula} is "
            f"{1 + len(others)}; export one after the other, first {formula(first)!r}"
        )
    return OneFunction(first)


def _initial(expr: Expr) -> Betas:
    return tuple((value,) for value in expr.initial)


def _name(found: Found) -> str:
    candidate = found.candidate.canonical(found.operators)
    name = "" if len(candidate.functions) > 1 else describe(candidate, found.operators).name
    return name or "activation"


# -- betas of a trained model


def trained_betas(path: Path, n: int, layer: str | None = None) -> Betas:
    """The betas of the activations with `n` of them in the state_dict in `path`: those of `layer`,
    or those of all where all have the same. Equal values of all channels become one."""
    if n == 0:
        raise UsageError("the function has no beta, so --from-weights has nothing to give it")
    layers = {name: betas for name, betas in _layers(_loaded(path)) if len(betas) == n}
    if not layers:
        raise UsageError(
            f"{path} holds no activation with {n} beta{'s' * (n > 1)} (keys such as "
            "blocks.0.act.beta.0); give the state_dict of a model with this function"
        )
    if layer is not None:
        check_among("layer", layer, layers)
    if layer is None and len(set(layers.values())) > 1:
        raise UsageError(
            f"{path} holds {len(layers)} activations with different betas; choose one by "
            f"--layer: {', '.join(layers)}"
        )
    return layers[layer] if layer is not None else next(iter(layers.values()))


def _loaded(path: Path) -> Mapping[str, Any]:
    """The state_dict in a file, as it is or in a checkpoint."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError: whatever the file is
        raise UsageError(
            f"{path} cannot be read as weights alone; save them by "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    if not isinstance(loaded, Mapping):
        raise UsageError(f"{path} holds no state_dict but a {type(loaded).__name__}")
    return next((loaded[key] for key in WRAPPED if isinstance(loaded.get(key), Mapping)), loaded)


def _layers(state: Mapping[str, Any]) -> Iterable[tuple[str, Betas]]:
    """Each activation of a state_dict with betas: its prefix, and their values."""
    layers: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    for key, value in state.items():
        match = re.fullmatch(r"(?:(.*)\.)?beta\.(\d+)", key)
        if match is not None and isinstance(value, torch.Tensor):
            layers[match[1] or ""][int(match[2])] = value
    for prefix, betas in layers.items():
        yield prefix, tuple(_values(f"{prefix}.beta.{i}", betas[i]) for i in sorted(betas))


def _values(key: str, beta: torch.Tensor) -> tuple[float, ...]:
    if not torch.isfinite(beta).all():
        raise UsageError(f"{key} has a value that is not finite, so it cannot be exported")
    exact = beta.detach().flatten()
    exact = exact if exact.dtype == torch.float64 else exact.float()
    values = tuple(float(str(value)) for value in exact.numpy())  # float32 at its own length
    return values if len(set(values)) > 1 else values[:1]
