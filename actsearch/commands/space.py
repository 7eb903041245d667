"""actsearch space: how large a search space is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from actsearch.errors import DONE
from actsearch.options import Flag, OneOf, Options, Typed, Word
from actsearch.shown import put


@dataclass(frozen=True)
class SpaceConfig(Options):
    """Say how large a search space is and which operators it has.

    Example: actsearch space tiny --distinct
    """

    space: Annotated[str, Word(), Typed(place="[SPACE]")] = "one-unit"
    """tiny, one-unit, two-units, three-units, or 'units=2;unary=identity,sin;binary=add,mul'."""
    distinct: Flag = False
    """Count the different functions: by rule, by fingerprint, by symmetry class, and the rejected.
    """
    merged: Flag = False
    """The same, with the pairs that only their fingerprints merge: each could become a rule."""
    list: Flag = False
    """Print each different function that is worth training, as it is found."""
    operators: Annotated[str, OneOf("actsearch.search_space.text:OPERATOR_SETS")] = "guarded"
    """Operator set in which functions are compared: {names}."""


def run(config: SpaceConfig) -> int:
    from actsearch.reading.describe import distinct_lines, listed_lines, space_lines
    from actsearch.search_space.space import space_from

    chosen = space_from(config.space)
    if config.list:
        for line in listed_lines(chosen, config.operators):
            put(line)
        return DONE
    put("\n".join(space_lines(chosen)))
    if config.distinct or config.merged:
        put("\n".join(distinct_lines(chosen, config.operators, merged=config.merged)))
    return DONE
