"""actsearch propose: hand functions to a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Folder, Options, Typed, Word
from actsearch.shown import put, say


@dataclass(frozen=True)
class ProposeConfig(Options):
    """Hand functions to a search, which trains them before its strategy's.

    A function that the run knows is answered with its score, one that screening rejects with the
    reason. The others are trained as the run trains all, count in its budget and are ranked with
    its candidates, be they of its space or not. Where no search runs they are kept for the next.

    Example: actsearch propose runs/a mish 'x*tanh(x)'
    """

    run: Annotated[str, Folder(), Typed(place="RUN")]
    """Folder of the run."""
    formulas: Annotated[tuple[str, ...], Word(), Typed(place="FORMULA ...")]
    """Such as 'x*sigmoid(beta*x)', a name as mish, or runs/tiny#3: the third of a run."""


def run(config: ProposeConfig) -> int:
    from actsearch.run import Run
    from actsearch.searching.proposing import propose, who_takes_them

    answers = propose(config.run, config.formulas)
    put("\n".join(f"{answer.formula}: {answer.text}" for answer in answers))
    if any(answer.new for answer in answers):
        say(who_takes_them(Run.open(config.run)))
    return DONE
