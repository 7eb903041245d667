"""What `actsearch --help` says."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

OVERVIEW = """usage: actsearch COMMAND [OPTIONS]

Search a grammar for activation functions: train networks with each candidate,
rank them, re-evaluate the best.

commands:
{commands}

examples:
  actsearch search             two minutes on 5,000 digits that are here already
  actsearch top                what the newest run under runs/ has found
  actsearch show mish          a function: formula, properties, plots
  actsearch export RUN#1       the best function of a run as code
  actsearch search --help      the options of a command

options:
  -h, --help                   show this
  --version                    show the version

exit codes (docs/exit_codes.md):
  0 done, 1 unexpected, 2 wrong usage, 3 nothing trained, 4 data or machine,
  5 run in use or not there, 75 stopped and can go on, 130 interrupted
"""


def overview(configs: Mapping[str, type]) -> str:
    """With the first sentence of each command."""
    lines: list[str] = []
    for name, config in configs.items():
        first = " ".join((config.__doc__ or "").split("\n\n")[0].split())
        lines += textwrap.wrap(f"{name:<13}{first}", 78, initial_indent="  ",
                               subsequent_indent=" " * 15, break_on_hyphens=False)  # fmt: skip
    return OVERVIEW.format(commands="\n".join(lines))
