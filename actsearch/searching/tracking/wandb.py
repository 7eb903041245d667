"""Weights & Biases: a run of theirs for a run of ours, whose name is derived from ours.

Online, a session resumes it and asks the server what it has. Offline nobody can be asked, so a
session writes all anew, in the place of what earlier sessions have left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

import wandb

from actsearch.results.tables import Row as TableRow
from actsearch.searching.tracking.tracking import PROPOSALS, TRAINED, Known, Row, Tracked

PROJECT = "actsearch"  # unless WANDB_PROJECT says another
# A step of theirs is a row. What a row counts is a column of it, against which others are drawn.
AXES = {TRAINED: ("search", "baselines", "failures"), PROPOSALS: ("strategy",)}
UPLOAD_SECONDS = 20.0  # at the end


class WeightsAndBiases:
    """Keeps its files in RUN/wandb."""

    def __init__(self, search: Tracked) -> None:
        mode = wandb.setup().settings.mode
        self._offline = mode in ("offline", "dryrun")
        # Their own question for a key would stand in the middle of the search's terminal.
        if mode in ("online", "run", "shared") and not wandb.login(prompt=False):
            raise PermissionError(
                "nobody is logged in; run 'wandb login', or set WANDB_MODE=offline and upload later"
            )
        for old in search.run.glob(f"wandb/offline-run-*-{search.identifier}"):
            shutil.rmtree(old)
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True,
                                  finish_timeout=UPLOAD_SECONDS)  # fmt: skip
        metric = {"metric": search.metric.name, "direction": search.metric.direction}
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=search.identifier,
            name=os.environ.get("WANDB_NAME", search.run.resolve().name),
            resume="allow",
            dir=str(search.run),
            config={**search.said, **metric},
            allow_val_change=True,
            reinit="create_new",  # beside a run that the process may have of its own
            settings=settings,
        )
        self._run = run
        best = ("max", "min")[search.metric.lower]
        for axis, families in AXES.items():
            run.define_metric(axis, hidden=True)
            for family in families:
                run.define_metric(f"{family}/*", step_metric=axis)
        run.define_metric(search.score, step_metric=TRAINED, summary=best)

    @property
    def place(self) -> str:
        if self._offline:
            return f"wandb sync {os.path.dirname(self._run.dir)}"
        return self._run.url or "W&B, which is disabled"

    def known(self) -> Known:
        if self._offline or not self._run.resumed:
            return {}
        found: dict[tuple[str, int], float] = {}
        for row in wandb.Api().run(self._run.path).scan_history():
            axis = next((axis for axis in AXES if row.get(axis) is not None), None)
            numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and "/" in k}
            if axis is not None:
                found |= {(name, int(row[axis])): value for name, value in numbers.items()}
        return found

    def write(self, row: Row) -> None:
        self._run.log({row.axis: row.step, **row.numbers, **row.texts})

    def flush(self) -> None:
        pass  # their process writes as it is told

    def end(self, table: Sequence[TableRow], *, whole: bool) -> None:
        try:
            if table:
                columns: list[Any] = [*table[0]]
                data: list[Any] = [[_plain(row[column]) for column in columns] for row in table]
                made = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
                self._run.log({"ranking": made})
        finally:
            self._run.finish(exit_code=0)


def _plain(value: Any) -> Any:
    """Scores and formulas know how people read them, which W&B need not."""
    if isinstance(value, str):
        return str(value)
    return float(value) if isinstance(value, float) else value
