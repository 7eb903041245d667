"""plot(): figures of what a run has stored. FIGURES has one row for each `--of`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from actsearch.config import PlotConfig
from actsearch.errors import NoCandidateError
from actsearch.run import Run
from results.figures import Inspected, beta_figure, file_name, preactivation_figure
from results.plots import Figure, check_installed, write
from results.records import Outcome

FIGURES: Mapping[str, Callable[[Inspected], Figure | None]] = {
    "betas": beta_figure,
    "preactivations": preactivation_figure,
}


def carry_out(config: PlotConfig) -> list[Path]:
    """The files that were written; raises NoCandidateError where the run has nothing to draw."""
    check_installed()
    run = Run.open(config.run) if config.run else Run.newest()
    found = inspected(run, config.function)
    figures = [figure for of in found if (figure := FIGURES[config.of](of)) is not None]
    if not figures:
        raise NoCandidateError(_nothing(run, config))
    folder = Path(config.output) if config.output else run.path / "figures"
    return write(figures, folder, config.of, f"{config.of.capitalize()} of {run.path}")


def inspected(run: Run, function: str | None = None) -> list[Inspected]:
    """Each function on each model of the run's re-evaluations, its seeds together."""
    store = run.store(readonly=True)
    try:
        trials = {row["id"]: row for row in store.rows("reevaluate")}
        outcomes = dict(store.outcomes("reevaluate"))
        models = {p: store.protocol(p) for p in {row["protocol"] for row in trials.values()}}
    finally:
        store.close()
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, outcome in outcomes.items():
        row = trials[number]
        if outcome.status == "ok" and (function is None or _is(row, function, models)):
            groups[row["expression"], row["protocol"]].append(number)
    found: list[Inspected] = []
    names: set[str] = set()
    for (_, protocol), numbers in groups.items():
        row = trials[numbers[0]]
        name = file_name(row["label"] or row["formula"])
        if len(models) > 1:
            name = f"{name}-{file_name(models[protocol]['child'])}"
        while name in names:
            name += "-"
        names.add(name)
        found.append(_together(row, name, models[protocol], [outcomes[i] for i in numbers]))
    return found


def _is(row: Mapping[str, Any], function: str, models: Mapping[str, Mapping[str, Any]]) -> bool:
    """By its name, its formula as it is shown, or any formula of the same canonical form."""
    if function in (row["label"], row["formula"], row["expression"]):
        return True
    from search_space.equivalence import canonical
    from search_space.parser import parse

    operators = models[row["protocol"]].get("operators", "guarded")
    return str(canonical(parse(function), operators)) == row["expression"]


def _together(
    row: Mapping[str, Any], name: str, model: Mapping[str, Any], outcomes: Iterable[Outcome]
) -> Inspected:
    details = [outcome.details for outcome in outcomes]
    where = f"{model['child']} on {model['dataset']}"
    betas = [d["betas"] for d in details if d.get("betas")]
    together = tuple(
        tuple(value for values in each for value in values if value is not None)
        for each in zip(*betas, strict=True)
    )
    counted = [d["preactivations"] for d in details if "preactivations" in d]
    return Inspected(row["formula"], where, name, len(details), together, _summed(counted))


def _summed(histograms: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    if not histograms:
        return None
    return {
        **histograms[0],
        "counts": [sum(each) for each in zip(*(h["counts"] for h in histograms), strict=True)],
        "below": sum(h["below"] for h in histograms),
        "above": sum(h["above"] for h in histograms),
    }


def _nothing(run: Run, config: PlotConfig) -> str:
    known = sorted({row["formula"] for row in run.rows("reevaluate")})
    if config.function and known:
        return (
            f"{run.path} has no {config.of} of {config.function} in its re-evaluations; "
            f"there are: {', '.join(known)}"
        )
    if known:
        return f"no function that was re-evaluated in {run.path} has {config.of} to draw"
    return (
        f"{run.path} has no re-evaluation, which records {config.of}: "
        f"'actsearch reevaluate {run.path}' makes one"
    )
