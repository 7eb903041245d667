"""fingerprint(expr): a key of a function's values, which merges what the rules do not know yet.

The values are taken on a fixed grid in float64, at the initial betas and at three generic choices,
and rounded. A rounded key alone could merge functions that differ a little, or only elsewhere, so a
pair is merged only when `same_function` (confirmation.py) confirms it. Values are not
standardised: near a pole that merges functions which differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from actsearch.search_space.analysis.evaluation import curves, generic_beta
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import Op
from actsearch.search_space.space import Space

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


@dataclass(frozen=True)
class Fingerprint:
    """`key` is equal for equal functions; `symmetry` also for those that differ only by output
    scale, shift and sign, or by reflecting the input: a label, since a residual path does not
    absorb them.
    """

    key: str
    symmetry: str


def fingerprints(
    exprs: Iterable[Expr], operators: str = "guarded"
) -> Iterator[tuple[Expr, Fingerprint]]:
    """The fingerprint of each expression, in order."""
    points = torch.cat([FIRST, BEYOND])
    for batch in curves(exprs, points, settings=SETTINGS, operators=operators):
        values, beyond = np.split(batch.value.numpy(), [len(FIRST)], axis=-1)
        keys, classes = rounded(values), _symmetry(values[..., : 2 * MIRRORED], beyond)
        for i, expr in enumerate(batch.exprs):
            # Equal functions that start elsewhere train differently.
            initial = np.array([n.beta for n in expr.walk() if n.beta is not None])
            yield expr, Fingerprint(_digest(keys[i], initial), min(map(_digest, classes[:, i])))


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


def _symmetry(values: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """(2, expressions, settings, points): rounded standardised curves and their mirror images.

    `beyond` are the values close to 0 and far out, on the scale of those between.
    """
    curves = [(values, beyond), (_mirrored(values), _mirrored(beyond))]
    return np.stack([rounded(_standardised(*curve), bits=16, tiny=1e-6) for curve in curves])


def _mirrored(values: np.ndarray) -> np.ndarray:
    return np.roll(values, values.shape[-1] // 2, axis=-1)


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


# -- keys of digits, for millions of candidates


def digit_keys(space: Space, digits: np.ndarray, operators: str = "guarded") -> np.ndarray:
    """64-bit keys of candidates given as digits (N, len(space.radices)), without building
    expressions.

    Equal keys say "the same function on the first grid at two settings of beta", to BITS bits. Each
    beta's value goes with its place in the digits, so fewer functions with betas are merged than by
    `fingerprint`.
    """
    digits = _sorted_arguments(space, np.asarray(digits))
    first = _unit_table(space, operators)
    u, b = len(space.unary), len(space.binary)
    rows = (digits[:, 2] * u + digits[:, 3]) * b + digits[:, 4]
    values = [FIRST.expand(len(digits), 2, -1), first[torch.from_numpy(rows)]]
    for unit in range(1, space.units):
        values.append(_unit_values(space, unit, digits, values, operators, (1, 2)))
    codes = rounded(values[-1].numpy()).reshape(len(digits), -1)
    return (codes * _HASH[: codes.shape[1]]).sum(axis=1)


def digit_values(
    space: Space, digits: np.ndarray, points: torch.Tensor, operators: str = "guarded"
) -> torch.Tensor:
    """Values (N, points) of candidates given as digits (N, len(space.radices)), at their initial
    betas, without building expressions."""
    digits = np.asarray(digits)
    values = [points.expand(len(digits), 1, -1)]
    for unit in range(space.units):
        values.append(_unit_values(space, unit, digits, values, operators, (INITIAL,)))
    return values[-1][:, 0]


INITIAL = 0  # the setting in which betas have their initial values

_HASH = np.random.default_rng(0).integers(-(2**62), 2**62, 4096) | 1


def _sorted_arguments(space: Space, digits: np.ndarray) -> np.ndarray:
    """Digits with the arguments of commutative operators in order."""
    digits = digits.copy()
    commutative = np.array([op.commutative for op in space.binary])
    for unit in range(space.units):
        i = 5 * unit
        in1, in2, un1, un2, bi = (digits[:, i + k] for k in range(5))
        swap = commutative[bi] & ((in1 > in2) | ((in1 == in2) & (un1 > un2)))
        for a, b in ((i, i + 1), (i + 2, i + 3)):
            digits[swap, a], digits[swap, b] = digits[swap, b], digits[swap, a]
    return digits


@lru_cache(maxsize=4)
def _unit_table(space: Space, operators: str) -> torch.Tensor:
    """The first unit for every choice of its operators: (unary * unary * binary, 2, points)."""
    u, b = len(space.unary), len(space.binary)
    grid = np.stack(np.meshgrid(*map(np.arange, (u, u, b)), indexing="ij"), -1).reshape(-1, 3)
    digits = np.concatenate([np.zeros((len(grid), 2), np.int64), grid], axis=1)
    inputs = [FIRST.expand(len(digits), 2, -1)]
    return _unit_values(space, 0, digits, inputs, operators, (1, 2))


def _unit_values(
    space: Space,
    unit: int,
    digits: np.ndarray,
    values: list[torch.Tensor],
    operators: str,
    settings: tuple[int, ...],
) -> torch.Tensor:
    """One core unit for all candidates, an operator at a time: (N, settings, points)."""
    in1, in2, un1, un2, bi = (digits[:, 5 * unit + k] for k in range(5))
    how = operators, settings
    a = _by_operator(space.unary, un1, [_chosen(values, in1)], 3 * unit, *how)
    b = _by_operator(space.unary, un2, [_chosen(values, in2)], 3 * unit + 1, *how)
    return _by_operator(space.binary, bi, [a, b], 3 * unit + 2, *how)


def _chosen(values: list[torch.Tensor], choice: np.ndarray) -> torch.Tensor:
    chosen = values[0].clone()
    for i in range(1, len(values)):
        at = torch.from_numpy(np.flatnonzero(choice == i))
        chosen[at] = values[i][at]
    return chosen


def _by_operator(
    ops: Sequence[Op],
    choice: np.ndarray,
    inputs: list[torch.Tensor],
    number: int,
    operators: str,
    settings: tuple[int, ...],
) -> torch.Tensor:
    out = torch.empty_like(inputs[0])
    for i, op in enumerate(ops):
        at = torch.from_numpy(np.flatnonzero(choice == i))
        if len(at):
            arguments = [x[at] for x in inputs][: op.arity]
            if op.beta is not None:
                betas = [op.beta if s == INITIAL else generic_beta(s, number) for s in settings]
                arguments.append(torch.tensor(betas, dtype=out.dtype)[None, :, None])
            result = op.form(operators)(*arguments)
            out[at] = result.expand(len(at), *out.shape[1:])
    return out
