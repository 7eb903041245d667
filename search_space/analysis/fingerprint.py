"""fingerprint(expr): a key of a function's values, which merges what the rules do not know yet.

The values are taken on a fixed grid in float64, at the initial betas and at three generic choices,
and rounded; those of a gate in the plane of x and g. A rounded key alone could merge functions that
differ a little, or only elsewhere, so a pair is merged only when `same_function` (confirmation.py)
confirms it. Values are not standardised: near a pole that merges functions which differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.evaluation import by_inputs, curves
from actsearch.search_space.expression import Expr, exchanged

SETTINGS = 4
BITS = 23  # of each value's mantissa in the key: seven digits
TINY = 1e-12  # smaller values are rounding errors of zero


def _grid(n: int, reach: float, offset: float, special: tuple[float, ...]) -> torch.Tensor:
    """`n` points spread over -reach..reach without a pattern, their mirror images, special ones."""
    spread = torch.arange(1, n + 1, dtype=torch.float64) * 0.7548776662466927 + offset
    points = reach * torch.frac(spread)
    return torch.cat([points, -points, torch.tensor(special, dtype=torch.float64)])


# Close to 0 and far out are where guards differ from plain formulas.
FIRST = _grid(12, 6.0, 0.1, (1e-4, -1e-4, 3e-3, -3e-3, 12.3, -12.3, 37.1, -37.1))
MIRRORED = 12  # FIRST[:12] and FIRST[12:24] are mirror images
_SIZES = (1e-4, 3e-3, 0.02, 0.09, 0.2, 0.33, 0.5, 0.62, 6.3, 8.1, 10.4, 12.3, 37.1, 150.0, 1500.0)
BEYOND = torch.tensor([(x, -x) for x in _SIZES], dtype=torch.float64).T.flatten()


def _spread(n: int, rate: float, offset: float) -> torch.Tensor:
    return torch.frac(torch.arange(1, n + 1, dtype=torch.float64) * rate + offset)


def _quadrants(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """(2, 4 N): the points, mirrored in x, in g, and in both."""
    return torch.stack([torch.cat([x, -x, x, -x]), torch.cat([g, g, -g, -g])])


# The same in the plane: generic points, and any size beside any other.
PLANE = _quadrants(
    *(6.0 * _spread(16, *r) for r in ((0.7548776662466927, 0.1), (0.5698402909980532, 0.3)))
)
_BESIDE = torch.tensor(_SIZES, dtype=torch.float64)
PLANE_BEYOND = _quadrants(_BESIDE, torch.roll(_BESIDE, 7) * 1.07)
CORNERS = torch.tensor(
    [(1e-4, 2.1), (2.3, -1e-4), (3e-3, -3e-3), (12.3, 1.7), (-1.9, 37.1), (-12.3, -12.1),
     (37.1, -36.5), (-3e-3, 12.3)], dtype=torch.float64,
).T  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """`key` is equal for equal functions; `symmetry` also for those that differ only by output
    scale, shift and sign, by reflecting an input, or by which input is which: a label, since a
    residual path does not absorb them. `exchange` is equal for gates that differ by the last alone;
    of a function of x it is the key.
    """

    key: str
    symmetry: str
    exchange: str


def fingerprints(
    exprs: Iterable[Expr], operators: str = "guarded"
) -> Iterator[tuple[Expr, Fingerprint]]:
    """The fingerprint of each expression, in order."""
    for inputs, alike in by_inputs(exprs):
        yield from _of_x(alike, operators) if inputs == 1 else _of_gates(alike, operators)


def _of_x(exprs: Iterable[Expr], operators: str) -> Iterator[tuple[Expr, Fingerprint]]:
    points = torch.cat([FIRST, BEYOND])
    for batch in curves(exprs, points, settings=SETTINGS, operators=operators):
        values, beyond = np.split(batch.value.numpy(), [len(FIRST)], axis=-1)
        keys = rounded(values)
        classes = _symmetry(values[..., : 2 * MIRRORED], beyond, [(0, 1), (1, 0)])
        for i, expr in enumerate(batch.exprs):
            key = _key(keys[i], expr)
            yield expr, Fingerprint(key, min(map(_digest, classes[:, i])), key)


def _of_gates(exprs: Iterable[Expr], operators: str) -> Iterator[tuple[Expr, Fingerprint]]:
    """Each beside its exchanged form."""
    exprs = list(exprs)
    others = {expr: canonical(exchanged(expr), operators) for expr in exprs}
    found: dict[Expr, tuple[str, str]] = {}
    points = torch.cat([PLANE, PLANE_BEYOND, CORNERS], 1)
    near, far = PLANE.shape[1], PLANE.shape[1] + PLANE_BEYOND.shape[1]
    every = dict.fromkeys([*exprs, *others.values()])
    for batch in curves(every, points, settings=SETTINGS, operators=operators):
        values, beyond, _ = np.split(batch.value.numpy(), [near, far], axis=-1)
        keys = rounded(np.delete(batch.value.numpy(), np.s_[near:far], axis=-1))
        classes = _symmetry(values, beyond, _IMAGES)
        for i, expr in enumerate(batch.exprs):
            found[expr] = _key(keys[i], expr), min(map(_digest, classes[:, i]))
    for expr in exprs:
        (key, symmetry), (other, its_symmetry) = found[expr], found[others[expr]]
        yield expr, Fingerprint(key, min(symmetry, its_symmetry), min(key, other))


def _key(values: np.ndarray, expr: Expr) -> str:
    """Equal functions that start elsewhere train differently."""
    return _digest(values, np.array([*expr.initial]))


def fingerprint(expr: Expr, operators: str = "guarded") -> Fingerprint:
    return next(fingerprints([expr], operators))[1]


def rounded(values: np.ndarray, bits: int = BITS, tiny: float = TINY) -> np.ndarray:
    """Values as integers that agree where values agree to `bits` bits; NaN and infinities apart."""
    with np.errstate(all="ignore"):
        values = np.where(np.abs(values) < tiny, 0.0, values)
        mantissa, exponent = np.frexp(values)
        mantissa = np.round(mantissa * 2.0**bits)
    # A mantissa that rounds up to 1 is 1/2 with the next exponent.
    up = np.abs(mantissa) == 2.0**bits
    mantissa, exponent = np.where(up, mantissa / 2, mantissa), exponent + up
    special = np.where(np.isnan(values), 1 << 40, np.sign(values) * (1 << 41))
    code = np.where(np.isfinite(values), mantissa, 0).astype(np.int64) * 4096 + exponent
    return np.where(np.isfinite(values), code, special.astype(np.int64) << 13)


def _digest(*arrays: np.ndarray) -> str:
    sha = hashlib.blake2b(digest_size=8)
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


# The quadrants of the plane as they are, and in the places of their mirror images.
_IMAGES = [(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)]


def _symmetry(
    values: np.ndarray, beyond: np.ndarray, images: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """(images, expressions, settings, points): rounded standardised curves and their mirror images,
    each an order of the parts that mirror each other.

    `beyond` are the values close to 0 and far out, on the scale of those between.
    """
    curves = [[_placed(part, image) for part in (values, beyond)] for image in images]
    return np.stack([rounded(_standardised(*curve), bits=16, tiny=1e-6) for curve in curves])


def _placed(values: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    parts = np.split(values, len(image), axis=-1)
    return np.concatenate([parts[i] for i in image], axis=-1)


def _standardised(values: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Both, without mean, scale and sign of `values`: mean 0, largest size 1, the first large value
    positive."""
    with np.errstate(all="ignore"):
        mean = values.mean(axis=-1, keepdims=True)
        centred = np.concatenate([values, beyond], axis=-1) - mean
        near = centred[..., : values.shape[-1]]
        size = np.abs(near).max(axis=-1, keepdims=True)
        flat = size <= 1e-9 * np.abs(values).max(axis=-1, keepdims=True)
        scaled = centred / np.where(flat, 1.0, size)
        near = np.where(flat, 0.0, scaled[..., : values.shape[-1]])
        large = np.argmax(np.abs(near) > 0.1, axis=-1)[..., None]
        sign = np.where(np.take_along_axis(near, large, axis=-1) < 0, -1.0, 1.0)
        return np.concatenate([near, scaled[..., values.shape[-1] :]], axis=-1) * sign
