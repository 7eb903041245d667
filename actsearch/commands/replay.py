"""actsearch replay: strategies against each other on results that are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from actsearch.errors import DONE, UsageError, written
from actsearch.options import (
    Count,
    Format,
    Formulas,
    Int,
    Listed,
    OperatorSet,
    Options,
    Positive,
    Text,
    Typed,
    Whole,
    Word,
)
from actsearch.results.aims import WAYS, parts, words
from actsearch.settings import Scores
from actsearch.shown import put, say

if TYPE_CHECKING:
    from actsearch.studies.known_results import Table
    from actsearch.studies.predicted import Predicted


USUAL = ("random", "evolution", "surrogate", "ppo")


@dataclass(frozen=True)
class ReplayConfig(Options):
    """Compare strategies on results that are known already, without training.

    A function of the table costs one training the first time it is proposed, a repeat nothing.

    Example: actsearch replay one-unit --strategy random evolution
    """

    table: Annotated[str, Word(), Typed(place="TABLE")]
    """Folder of a finished run, a .csv or .parquet with the columns formula and accuracy,
    one-unit or lm-one-unit, tables of that space which come with actsearch, or two-units, that
    space as a model of the first predicts it."""
    strategy: Annotated[
        tuple[str, ...], Word("actsearch.controller.strategies:STRATEGIES", "TEXT ...")
    ] = USUAL
    """Strategies, {names}, with options as in a search; the others are tested against the first.
    With several objectives ppo is left out of the usual ones."""
    repeats: Count = 30
    """Replays a strategy, each with a seed of its own."""
    budget: Int = None
    """Trainings a replay [as many as the table has functions, without --find at most 300]."""
    top: Annotated[float, Positive()] = 1.0
    """How good a function must be to count as found: among the best so many per cent."""
    find: Formulas = ()
    """Functions one of which is to be found, in the place of the best so many per cent, each a
    formula, a name or RUN#RANK; a replay ends with it."""
    minimise: Scores = None
    """Search for several objectives: besides the table's score less of these, each cost, a column
    of numbers, or another table that comes with actsearch, for the scores that it has. What is
    shown then is the share of the true front's hypervolume (docs/several_objectives.md)."""
    maximise: Scores = None
    """The same, where more is better."""
    where: Annotated[str, Listed(metavar="CONDITIONS")] = ""
    """Limits that a function is to keep, such as 'cost<=1.5, accuracy>=0.3'."""
    workers: Count = 1
    """How many trainings go on at once: a reward comes while so many others are on their way."""
    space: Text = None
    """Space that the strategies search [that of the run; one-unit for a file]."""
    operators: OperatorSet = None
    """Operator set of a file's results [guarded]."""
    seed: Annotated[int, Whole(0)] = 0
    """The first seed."""
    curves: Text = None
    """A CSV file for the regret after each training: median, quartiles and deciles."""
    format: Format = "table"
    """{names}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strategy:
            raise ValueError("--strategy needs a name, such as random")
        if self.top > 100:
            raise ValueError(f"--top {self.top:g} must be above 0 and at most 100 per cent")
        if self.several and (self.find or self.curves):
            raise ValueError(
                f"--{'find' if self.find else 'curves'} is of one score; leave it out, or leave "
                "out --minimise, --maximise and --where"
            )

    @property
    def several(self) -> bool:
        return any((self.minimise, self.maximise, self.where))

    @property
    def sought(self) -> str:
        """What is sought besides the table's score."""
        return words((way, name) for way in WAYS for name in parts(getattr(self, way)))


def run(config: ReplayConfig) -> int:
    from actsearch.controller.strategies import STRATEGIES
    from actsearch.results.tables import FORMATS, to_csv
    from actsearch.studies.known_results import Sought, Table
    from actsearch.studies.predicted import Predicted, results_from
    from actsearch.studies.replay import TrueFront, curves, fronts, replay, summary

    if config.curves and not Path(config.curves).absolute().parent.is_dir():
        raise UsageError(f"--curves {config.curves}: there is no such folder")
    sought = Sought(config.sought, config.where) if config.several else None
    table = results_from(config.table, config.space, config.operators, sought)
    goal = table.named(config.find)
    if isinstance(table, Predicted):
        _say_predicted(table, config)
    else:
        _check_covered(table, config)
    front = TrueFront(table) if sought and isinstance(table, Table) else None
    if front is not None:
        say(f"The true front has {len(front.points):,} points, different in their scores.")
    usual = [name for name in USUAL if front is None or STRATEGIES[name].several]
    replayed = replay(
        table,
        usual if config.strategy == USUAL else config.strategy,
        repeats=config.repeats,
        budget=config.budget,
        workers=config.workers,
        seed=config.seed,
        goal=goal,
    )
    rows = fronts(front, replayed) if front else summary(table, replayed, config.top, goal)
    put(FORMATS[config.format](rows), end="")
    if config.curves:
        with written(config.curves):
            Path(config.curves).write_text(to_csv(curves(table, replayed)))
    return DONE


def _say_predicted(table: Predicted, config: ReplayConfig) -> None:
    from actsearch.studies.predicted import CAUTION

    say(f"{config.table}: {CAUTION}.")
    best, good = (table.metric.text(table.top(share)) for share in (0.0, config.top))
    say(
        f"Of {len(table):,} different random functions that would be trained the best is predicted "
        f"{best}, the top {config.top:g} % from {good}; a replay without --find ends at that best."
    )


def _check_covered(table: Table, config: ReplayConfig) -> None:
    """Say what the table is. Raises UsageError for one that knows too little of its space."""
    covered, metric = table.coverage(), table.metric
    best, good = (metric.text(metric.reward(table.top(share))) for share in (0.0, config.top))
    say(
        f"{config.table}: {len(table):,} functions of {table.space.spec}, best {best}, "
        f"top {config.top:g} % from {good}"
    )
    if covered < 0.1:
        raise UsageError(
            f"{config.table} has only {covered:.1%} of the candidates of {table.space.spec}: a "
            "replay would tell nothing; give the table of a space trained whole, or --space"
        )
    if covered < 0.5:
        say(
            f"Only {covered:.0%} of the space's candidates are in the table; the others count as "
            "rejected, which no real search would tell."
        )
