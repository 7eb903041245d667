"""Predicted: a space too large to train whole, played on a model of the one-unit table, in the
manner of NAS-Bench-301 (Zela et al. 2022).

The model reads what a function does to normal pre-activations, the quantities of the theory of
signal propagation (Poole et al. 2016, Schoenholz et al. 2017), and is made of trees; strategies
read values and slopes on a line and have a Gaussian process. So a strategy cannot win by being the
same model. Trees predict no more than they have seen: the best of the one-unit table bounds every
prediction, so this says how soon a strategy finds good functions, not whether two units are better
than one. `benchmarks/predicted_table.py` says how well it predicts what it was not fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import norm

from actsearch.controller.strategy import Digits
from actsearch.errors import UsageError
from actsearch.functions import find
from actsearch.results.benchmarks import ONE_UNIT, load_benchmark
from actsearch.results.metrics import ACCURACY
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.candidate import Candidate
from actsearch.search_space.expression import Expr
from actsearch.search_space.parser import parse
from actsearch.search_space.space import SPACES, Space
from actsearch.search_space.survey import with_rejections
from actsearch.studies.known_results import Known, Sought, Table, table_from

if TYPE_CHECKING:
    import pandas as pd

PREDICTED = ("two-units",)
CAUTION = (
    f"predicted by a model of the {ONE_UNIT} table and not trained; of 300 real trainings of two "
    "units it met three bounds of four, and it does not order the best (docs/strategies.md)"
)
OPERATORS = "guarded"  # of the table
SAMPLE = 3000  # random points of a space, among which shares of it are counted

SCALES = np.array([0.5, 1.0, 2.0, 4.0])  # standard deviations of pre-activations
NODES = norm.ppf((np.arange(48) + 0.5) / 48)  # of N(0, 1), with equal weights
# Orthonormal polynomials of degree 1 to 3 on the nodes, (3, 48): Hermite's, but for the tails.
_Q, _R = np.linalg.qr(np.vander(NODES, 4, increasing=True))
HERMITE = (_Q * np.sign(np.diag(_R))).T[1:] * math.sqrt(NODES.size)
FAR = np.array([-32.0, -16.0, 16.0, 32.0])
NEAR = np.array([-1e-3, 1e-3])
POINTS = torch.tensor(np.concatenate([np.outer(SCALES, NODES).ravel(), FAR, NEAR]))
HUGE, TINY = 1e6, 1e-9
TREES, ROUNDS = 100, 300


def features(exprs: Sequence[Expr], operators: str = OPERATORS) -> np.ndarray:
    """(N, 71) of functions of x at their initial betas: 15 for each of four widths of normal
    pre-activations, and 11 of the origin, of far out, and of symmetry and betas."""
    found = list(curves(exprs, POINTS, operators=operators))
    value, slope = (
        np.clip(np.nan_to_num(torch.cat(parts)[:, 0].numpy(), nan=0.0), -HUGE, HUGE)
        for parts in ([c.value for c in found], [c.slope for c in found])
    )
    width = SCALES.size * NODES.size
    under = [part[:, :width].reshape(-1, SCALES.size, NODES.size) for part in (value, slope)]
    betas = np.array([[sum(1 for _ in expr.initial)] for expr in exprs])
    parts = [
        _propagation(*under),
        _ends(value[:, width:], slope[:, width:]),
        _parity(under[0]),
        betas,
    ]
    return np.concatenate(parts, axis=1)


def _propagation(f: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """(N, 4, 48) values and slopes -> (N, 60)."""
    mean = f.mean(-1)
    centred = f - mean[..., None]
    sd = np.sqrt((centred**2).mean(-1)) + TINY
    energy = (
        np.sqrt((slope**2).mean(-1)) + TINY
    )  # root of E f'(sz)^2, the slope of backward signals
    z = centred / sd[..., None]
    steps = np.abs(np.diff(slope, axis=-1)) / energy[..., None]
    known = [
        np.arcsinh(mean),
        np.log(sd),
        np.arcsinh((z**3).mean(-1)),
        np.log((z**4).mean(-1) + TINY),
        *((z * h).mean(-1) for h in HERMITE),  # how linear, even and odd it is
        np.log(energy),
        np.log(SCALES * energy / sd),  # chi: whether close inputs part
        np.arcsinh(slope.mean(-1)),
        (np.abs(slope) < 0.01 * energy[..., None]).mean(-1),  # dead
        np.log(np.abs(slope).max(-1) / energy + TINY),
        (np.diff(np.sign(slope), axis=-1) != 0).mean(-1),  # oscillates
        np.log1p(steps.sum(-1)),
        steps.max(-1),  # has kinks
    ]
    return np.stack(known, axis=-1).reshape(len(f), -1)


def _ends(value: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Values and slopes (N, 6) on FAR and NEAR -> (N, 9)."""
    size = np.abs(value[:, : FAR.size]) + TINY
    growth = np.log2(np.stack([size[:, 0] / size[:, 1], size[:, 3] / size[:, 2]], axis=1))
    far = np.arcsinh(np.concatenate([value[:, 1:3], slope[:, 1:3]], axis=1))
    return np.concatenate(
        [np.clip(growth, -8, 8), far, np.arcsinh(value[:, -1:]), np.arcsinh(slope[:, FAR.size :])],
        axis=1,
    )


def _parity(f: np.ndarray) -> np.ndarray:
    """E f(z) f(-z) / E f(z)^2, (N, 1): 1 of an even function, -1 of an odd one."""
    f = f[:, 1]
    return ((f * f[:, ::-1]).mean(-1) / ((f**2).mean(-1) + TINY))[:, None]


@dataclass(frozen=True)
class Forecast:
    """Of N functions: accuracy where the training ends well, the models' spread about it, and the
    probability that it diverges; each (N,)."""

    accuracy: np.ndarray
    spread: np.ndarray
    diverges: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """As a table scores: 0 for what probably diverges."""
        return np.where(self.diverges >= 0.5, 0.0, self.accuracy)


class Model:
    """Extremely randomised trees and boosted ones, their mean; the former for divergence too."""

    def __init__(self, seed: int = 0) -> None:
        from sklearn.ensemble import (
            ExtraTreesClassifier,
            ExtraTreesRegressor,
            HistGradientBoostingRegressor,
        )

        leaf: dict[str, Any] = {"min_samples_leaf": 2, "max_features": 0.5, "random_state": seed}
        self.trees = ExtraTreesRegressor(TREES, **leaf)
        self.boosted = HistGradientBoostingRegressor(
            max_iter=ROUNDS, learning_rate=0.06, random_state=seed
        )
        self.diverges = ExtraTreesClassifier(TREES, **leaf)

    def fit(self, x: np.ndarray, accuracy: np.ndarray) -> Model:
        """`x` (N, 71), `accuracy` (N,), NaN where the training diverged."""
        ended = np.isfinite(accuracy)
        self.trees.fit(x[ended], accuracy[ended])
        self.boosted.fit(x[ended], accuracy[ended])
        self.diverges.fit(x, ~ended)
        return self

    def predict(self, x: np.ndarray) -> Forecast:
        votes, chances = _votes(self.trees, x)[..., 0], _votes(self.diverges, x)
        means = np.stack([votes.mean(0), self.boosted.predict(x)])
        spread = np.sqrt(votes.var(0) + means.var(0))
        at = list(self.diverges.classes_).index(True) if True in self.diverges.classes_ else None
        chance = np.zeros(len(x)) if at is None else chances[..., at].mean(0)
        return Forecast(means.mean(0), spread, chance)


def _votes(forest: Any, x: np.ndarray) -> np.ndarray:
    """(trees, N, outputs): as its `predict` has them, without 10 ms for checks of one row."""
    x = np.ascontiguousarray(x, np.float32)
    return np.stack([tree.tree_.predict(x).reshape(len(x), -1) for tree in forest.estimators_])


@lru_cache(1)
def one_unit() -> tuple[pd.DataFrame, np.ndarray]:
    """The functions of the one-unit table that trained to an end, well or not, and their features;
    `accuracy` is NaN where the training diverged."""
    frame = load_benchmark(ONE_UNIT)
    frame = frame.loc[frame["status"].isin(("ok", "diverged"))].reset_index(drop=True)
    return frame, features([parse(e) for e in frame["expression"]])


@lru_cache(1)
def model() -> Model:
    """Fitted to the whole table."""
    frame, x = one_unit()
    return Model().fit(x, frame["accuracy"].to_numpy())


class Predicted:
    """The results of a space, each predicted when it is asked for. Shares of the space are counted
    among `SAMPLE` random points, of those that would be trained."""

    metric = ACCURACY
    operators = OPERATORS
    floor = 0.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.space: Space = SPACES[name]
        self._known: dict[Candidate, Known] = {}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return predicted, (self.name,)  # another process fits the model once

    def __len__(self) -> int:
        return len(self._sample)

    @cached_property
    def _sample(self) -> np.ndarray:
        """The rewards of different random functions, the best first."""
        radices = self.space.radices
        points = np.random.default_rng(0).integers(radices, size=(SAMPLE, len(radices)))
        drawn = {self.space.decode(d).canonical(OPERATORS) for d in points.tolist()}
        self._predict(drawn)
        rewards = [self._known[c].reward for c in drawn if self._known[c].name]
        return np.sort([self.floor if r is None else r for r in rewards])[::-1]

    def top(self, percent: float) -> float:
        """The reward from which on a function is among the best `percent` of the sample."""
        return float(self._sample[max(1, math.ceil(percent / 100 * len(self))) - 1])

    def named(self, formulas: Iterable[str]) -> set[str]:
        """The names of these functions, however they are written."""
        return {find(text, OPERATORS).candidate.canonical(OPERATORS).key for text in formulas}

    def look_up(self, digits: Digits, share: float) -> Known:
        if share != 1.0:
            raise UsageError(
                f"{self.name} is predicted for whole trainings only, and a strategy in rungs asks "
                f"for {share:g} of the steps; leave halving out"
            )
        form = self.space.decode(digits).canonical(OPERATORS)
        if form not in self._known:
            self._predict([form])
        return self._known[form]

    def _predict(self, forms: Collection[Candidate]) -> None:
        worth = [c for c, rejection in with_rejections(forms, OPERATORS) if not rejection]
        self._known |= {form: Known(None, None) for form in forms}
        if worth:
            forecast = model().predict(features([c.functions[0] for c in worth]))
            diverged = forecast.diverges >= 0.5
            for c, accuracy, fails in zip(worth, forecast.accuracy, diverged, strict=True):
                self._known[c] = Known(c.key, None if fails else float(accuracy))


@lru_cache
def predicted(name: str) -> Predicted:
    return Predicted(name)


def results_from(
    source: str,
    space: str | None = None,
    operators: str | None = None,
    sought: Sought | None = None,
) -> Table | Predicted:
    """`table_from`, or what is predicted of a space of PREDICTED, by its name where no run or file
    has it. Raises UsageError as `table_from` does."""
    if source not in PREDICTED or Path(source).exists():
        return table_from(source, space, operators, sought)
    if sought is not None:
        raise UsageError(
            f"of {source} accuracies alone are predicted; play several objectives on {ONE_UNIT} or "
            "on a run"
        )
    if operators not in (None, OPERATORS) or space not in (None, source):
        raise UsageError(
            f"{source} is predicted for the space of that name with {OPERATORS} operators; leave "
            "--space and --operators out"
        )
    return predicted(source)
