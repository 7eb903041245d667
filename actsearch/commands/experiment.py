"""actsearch experiment: a published comparison, trained again."""

from __future__ import annotations

from dataclasses import dataclass

from actsearch.errors import DONE, RESUMABLE
from actsearch.options import Format
from actsearch.shown import put, say
from actsearch.studies.published import CLAIMS, ExperimentOptions


@dataclass(frozen=True)
class ExperimentConfig(ExperimentOptions):
    """Re-run a published comparison: train, draw its figures, test its claims.

    mnist-mlp: five activations in a 784-256-64-10 network with three initialisations. mnist-cnn: a
    Keras CNN with ReLU and with Swish. claims: what is said of 21 functions since 2015, in five
    children, each at its own learning rate. The same command on the same folder goes on where it
    stopped, and a finished one only draws again; tables and figures are in RUN/figures.

    Example: actsearch experiment mnist-mlp --epochs 3
    """

    format: Format = "table"
    """{names}."""


def run(config: ExperimentConfig) -> int:
    import json

    from rich.console import Console

    from actsearch.results.tables import FORMATS
    from actsearch.searching.loop import STOPPED
    from actsearch.studies.experiments import run_experiment
    from actsearch.studies.replication import run_claims

    run_it = run_claims if config.experiment == CLAIMS else run_experiment
    report = run_it(config, Console(stderr=True))
    if config.format == "json":
        tables = {"results": report.results, "claims": report.claims}
        put(json.dumps(tables, indent=2, allow_nan=False))
    else:
        to_text = FORMATS[config.format]
        put(f"{to_text(report.results)}\n{to_text(report.claims)}", end="")
    say("", *(f"wrote {path}" for path in report.files))
    if report.reason != STOPPED:
        return DONE
    say("Stopped before all was trained. Nothing is lost, the same command goes on.")
    return RESUMABLE
