"""Figures (plots.py) of what trainings have made of activations: histograms of betas and inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actsearch.results.figures.plots import Bars, Figure, Panel

LONGEST = 80  # characters of a file's name


def file_name(text: str) -> str:
    """`text` without what a file's name had better not have, and no longer than one may be."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())[:LONGEST].strip("-.") or "x"


@dataclass(frozen=True)
class Inspected:
    """A function in a model, over its seeds: for each of its betas the values of all layers and
    channels, and the summed histogram of its inputs (`low`, `high`, `counts`, `below`, `above`)."""

    function: str
    model: str
    name: str
    seeds: int
    betas: tuple[tuple[float, ...], ...] = ()
    preactivations: Mapping[str, Any] | None = None


BETA_AXIS = (-0.5, 2.0)  # the paper's, Figure 7; wider where the values are
BETA_BINS = 50


def beta_figure(of: Inspected) -> Figure | None:
    """Histograms of trained betas (the paper's Figure 7), one panel a beta of the function."""
    panels = tuple(
        _beta_panel(of.model + (f", beta {i + 1}" if len(of.betas) > 1 else ""), values)
        for i, values in enumerate(of.betas)
        if values
    )
    if not panels:
        return None
    return Figure(f"betas-{of.name}", f"Trained betas of {of.function}", panels, _seeds(of))


def _beta_panel(title: str, values: Sequence[float]) -> Panel:
    edges, counts = histogram(values, BETA_BINS, BETA_AXIS)
    note = f"{len(values):,} values\nmean {sum(values) / len(values):.3f}"
    bars = Bars("betas", edges, tuple(count / len(values) for count in counts))
    return Panel(title, "beta", "share of betas", (bars,), (edges[0], edges[-1]), note=note)


def histogram(
    values: Sequence[float], bins: int, axis: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges and counts of bins of one width, over `axis` or as far as the values go."""
    low, high = min(axis[0], *values), max(axis[1], *values)
    width = (high - low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    return tuple(low + width * i for i in range(bins + 1)), tuple(counts)


def preactivation_figure(of: Inspected) -> Figure | None:
    """The histogram of the activations' inputs after training (the paper's Figure 6)."""
    found = of.preactivations
    if not found:
        return None
    counts, low, high = found["counts"], found["low"], found["high"]
    total = sum(counts) + found["below"] + found["above"]
    width = (high - low) / len(counts)
    edges = tuple(low + width * i for i in range(len(counts) + 1))
    bump = sum(c for c, a in zip(counts, edges, strict=False) if -5 <= a < 0) / total
    note = f"in -5..0: {bump:.1%}\nbelow: {found['below'] / total:.1%}"
    note += f"\nabove: {found['above'] / total:.1%}"
    bars = Bars("inputs", edges, tuple(c / total for c in counts))
    panel = Panel(
        of.model, "input of the activation", "share of inputs", (bars,), (low, high), note=note
    )
    title = f"Inputs of {of.function} after training"
    return Figure(f"preactivations-{of.name}", title, (panel,), _seeds(of))


def _seeds(of: Inspected) -> str:
    return f"all layers and channels, n = {of.seeds} seed{'s' * (of.seeds != 1)}"
