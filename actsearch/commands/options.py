"""actsearch options: what a strategy, child or data set is, and the options that it takes."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Format, Options, Typed, Word
from actsearch.results.tables import Row
from actsearch.search_space.text import Option
from actsearch.shown import put


@dataclass(frozen=True)
class OptionsConfig(Options):
    """List strategies, children, data sets, tasks and languages, or what one takes.

    Options are said behind the name, as ppo:lr=0.001,epochs=2 or resnet20:width=8.

    Example: actsearch options ppo
    """

    name: Annotated[str, Word(), Typed(place="[NAME]")] = ""
    """Such as ppo, halving, resnet20 or torchvision:mobilenet_v2 [all names]."""
    format: Format = "table"
    """{names}."""


def run(config: OptionsConfig) -> int:
    from actsearch.results.tables import FORMATS

    rows = [_row(option) for option in found(config.name)] if config.name else list(listed())
    if rows and config.name and config.format == "table":
        put("\n".join(line for row in rows for line in _lines(row)))
    elif rows:
        put(FORMATS[config.format](rows), end="")
    else:
        [row] = [row for row in listed() if row["name"] == config.name]
        put(f"{row['option']} {row['name']} takes no options: {row['text']}")
    return DONE


def listed() -> Iterator[Row]:
    """Every name that a search or an export takes, with a few words."""
    from actsearch.child_models.data.datasets import DATASETS
    from actsearch.child_models.data.tasks import TASKS
    from actsearch.child_models.networks.children import CHILDREN
    from actsearch.controller.strategies import STRATEGIES
    from actsearch.search_space.export.exporters import EXPORTERS

    tables = {
        "strategy": STRATEGIES, "child": CHILDREN, "dataset": DATASETS, "task": TASKS,
        "to": EXPORTERS,
    }  # fmt: skip
    for kind, table in tables.items():
        for name, row in table.items():
            yield {"option": f"--{kind}", "name": name, "text": row.text}


def found(name: str) -> list[Option]:
    """The options that whatever has this name takes; raises ValueError for an unknown one."""
    from actsearch.child_models.data.datasets import DATASETS
    from actsearch.child_models.data.tasks import TASKS
    from actsearch.child_models.networks.children import CHILDREN
    from actsearch.controller.strategies import HALVING, STRATEGIES, options_of_strategy
    from actsearch.search_space.export.exporters import EXPORTERS
    from actsearch.search_space.text import check_among

    if name in (*STRATEGIES, HALVING):
        return options_of_strategy(name)
    if name in DATASETS:
        return list(DATASETS[name].options)
    if name in (*TASKS, *EXPORTERS):
        return []
    if ":" not in name:
        known = [*STRATEGIES, HALVING, *CHILDREN, *DATASETS, *TASKS, *EXPORTERS]
        check_among("name", name, known)
    from actsearch.child_models.networks.zoo import child_from, options_of

    return options_of(child_from(name).build)


def _lines(row: Row) -> Iterator[str]:
    """An option as help shows it: its sentences may be long."""
    default = f" [{row['default']}]" if row["default"] else ""
    yield f"{row['option']}: {row['what']}{default}"
    width = min(100, shutil.get_terminal_size().columns)
    yield from textwrap.wrap(row["text"], width, initial_indent="    ", subsequent_indent="    ")


def _row(option: Option) -> Row:
    kinds = {int: "whole number", float: "number", str: "file"}
    allowed = option.kind
    return {
        "option": option.name,
        "default": "" if option.default is None else f"{option.default}",
        "what": " or ".join(allowed) if isinstance(allowed, tuple) else kinds[allowed],
        "text": option.text,
    }
