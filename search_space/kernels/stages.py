"""stages(program, outputs): straight-line arithmetic cut into loops.

In one loop a chain of slow functions, as exp of tanh of erf, is waited for link by link, since a
processor cannot look far enough ahead to begin with the next elements meanwhile. So a loop has only
slow functions that do not depend on each other: those before which equally many others lie. Their
results are kept for later loops, and the cheap arithmetic between them is done again wherever it is
needed, which costs less than to store it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actsearch.search_space.kernels.program import Node, Program
from actsearch.search_space.kernels.tracing import COSTS

SLOW = COSTS.keys() - {"div", "sqrt"}  # these two are not worth a loop, but worth keeping


@dataclass(frozen=True)
class Stage:
    """One loop: its `nodes` in order, of which `known` are results of earlier loops; `outputs` are
    those of the whole that are computed here."""

    nodes: tuple[Node, ...]
    known: frozenset[Node]
    outputs: frozenset[Node]


def stages(program: Program, outputs: Sequence[Node]) -> list[Stage]:
    """Each output as early as it can be; constants count as known from the start."""
    order = program.needed(outputs)
    depth: dict[Node, int] = {}
    for node in order:
        depth[node] = max((depth[a] + (a.name in SLOW) for a in node.args), default=0)
    found: list[Stage] = []
    for number in range(1 + max(depth[o] for o in outputs)):
        before = {n for n in order if n.name in COSTS and depth[n] < number}
        here = {o for o in outputs if depth[o] == number}
        made = {n for n in order if n.name in COSTS and depth[n] == number}
        nodes = _down_to(before, here | made, order)
        found.append(Stage(nodes, frozenset(before.intersection(nodes)), frozenset(here)))
    return found


def _down_to(known: set[Node], wanted: set[Node], order: Sequence[Node]) -> tuple[Node, ...]:
    """What `wanted` is computed from, down to what is known already."""
    found = set(wanted)
    for node in reversed(order):
        if node in found and node not in known:
            found.update(node.args)
    return tuple(n for n in order if n in found)
