"""TensorBoard: its events are written anew from the store in each session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from actsearch.results.tables import Row as TableRow
from actsearch.results.tables import to_markdown
from actsearch.searching.tracking.tracking import Known, Row, Tracked


class TensorBoard:
    """Owns the folder RUN/tensorboard."""

    def __init__(self, search: Tracked) -> None:
        self._folder = search.run / "tensorboard"
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        # purge_step: what a TensorBoard that is open has read of the old files, it forgets.
        self._writer = SummaryWriter(str(self._folder), purge_step=0)
        rows = [{"setting": k, "value": _text(v)} for k, v in search.said.items()]
        self._writer.add_text("settings", to_markdown(rows), 0)

    @property
    def place(self) -> str:
        return f"tensorboard --logdir {self._folder}"

    def known(self) -> Known:
        return {}

    def write(self, row: Row) -> None:
        for tag, number in row.numbers.items():
            self._writer.add_scalar(tag, number, row.step, row.at)

    def flush(self) -> None:
        self._writer.flush()

    def end(self, table: Sequence[TableRow], *, whole: bool) -> None:
        self._writer.close()


def _text(setting: Any) -> str:
    return ", ".join(setting) if isinstance(setting, list) else str(setting)
