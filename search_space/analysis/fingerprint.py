"""fingerprint(expr): a key of a function's values, which merges what the rules do not know yet.

The values are taken on a fixed grid in float64, at the initial betas and at three generic choices,
and rounded. A rounded key alone could merge functions that differ a little, or only elsewhere, so a
pair is merged only when `same_function` (confirmation.py) confirms it. Values are not
standardised: near a pole that merges functions which differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.expression import Expr

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
