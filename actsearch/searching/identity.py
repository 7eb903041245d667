"""Which trial a point of a space leads to. In the loop, only this file knows what functions are.

Two points are one function where their canonical forms are one text, or else where their
fingerprints are equal and their values on a second grid agree. A function has one trial a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actsearch.controller.strategy import Digits
from actsearch.results.records import Trial
from actsearch.results.store import Store
from actsearch.search_space.analysis.confirmation import same_function
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.names import name_of
from actsearch.search_space.analysis.survey import (
    NOT_DIFFERENTIABLE,
    Function,
    describe,
    describe_all,
)
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse
from actsearch.search_space.space import Space


@dataclass(frozen=True)
class Level:
    """How a search trial is trained: a stage, the protocol's hash, and steps (0: the recipe's)."""

    stage: str
    protocol: str
    steps: int = 0


def submit_function(
    store: Store, function: Function, level: Level, seed: int, label: str = ""
) -> Trial:
    """A search trial of this function, with what is known of it before training."""
    key = function.fingerprint
    store.add_function(function.expression, key.key, key.symmetry, function.properties)
    names = {"formula": function.formula, "label": label, "steps": level.steps}
    return store.submit(level.stage, function.expression, level.protocol, seed, **names)


class Functions:
    """The functions of a space, as far as a run knows them."""

    def __init__(
        self,
        store: Store,
        space: Space,
        operators: str = "guarded",
        extra: tuple[Op, ...] = (),
        seed: int = 0,
    ) -> None:
        self.store = store
        self.space = space
        self.operators = operators
        self.extra = extra
        self.seed = seed
        self._foreseen: dict[str, Function] = {}

    def foresee(self, coming: Sequence[Digits]) -> list[Function]:
        """Look at those of these functions that are new: together they take half the time."""
        forms = dict.fromkeys(map(self._canonical, coming))
        new = [expr for expr in forms if not self.store.has_function(str(expr))]
        try:
            found = describe_all(new, self.operators) if new else []
        except NOT_DIFFERENTIABLE:
            found = []  # each is looked at alone, when its turn comes
        self._foreseen = {function.expression: function for function in found}
        return found

    def trial(self, digits: Digits, level: Level) -> tuple[Trial, Function | None]:
        """The trial of this function at this level; with what was found of the function where the
        trial is new, with None where it was there."""
        expr = self._canonical(digits)
        expression = self.store.merged_into(str(expr))
        found = self.store.find(level.stage, expression, level.protocol, self.seed)
        if found is not None:
            return found, None
        if expression != str(expr):
            expr = parse(expression, self.extra)
        function = self._foreseen.get(expression) or describe(expr, self.operators)
        found = self._alike(function, level)
        if found is not None:
            self.store.merge(expression, found.expression)
            return found, None
        name = name_of(function, self.operators)
        return submit_function(self.store, function, level, self.seed, name), function

    def _alike(self, function: Function, level: Level) -> Trial | None:
        """The trial of a function that only its values show to be this one."""
        this = (level.stage, level.protocol, self.seed)
        for trial in self.store.alike(function.fingerprint.key, this):
            known = parse(trial.expression, self.extra)
            if same_function(known, function.expr, self.operators):
                return trial
        return None

    def _canonical(self, digits: Digits) -> Expr:
        return canonical(self.space.decode(digits), self.operators)
