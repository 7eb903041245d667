"""What a text that names a function means, where runs are known: a formula, a name, or RUN#RANK.

`search_space` knows no runs, so importing this module tells its `Activation` what RUN#RANK is. It
is therefore the home of the names of `actsearch` that take a function.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from actsearch.child_models.networks.replacement import replace_activations
from actsearch.errors import NoCandidateError, UsageError
from actsearch.run import Run
from actsearch.search_space import activation
from actsearch.search_space.activation import Activation, act_layer
from actsearch.search_space.baselines import GROUPS, NAMED, SYNONYMS
from actsearch.search_space.candidate import Candidate, OneFunction, candidate_from
from actsearch.search_space.expression import Expr
from actsearch.search_space.operators import OPERATORS, Op
from actsearch.search_space.parser import ParseError
from actsearch.search_space.text import check_among, check_operator_set

__all__ = ["Activation", "Found", "act_layer", "find", "replace_activations"]


@dataclass(frozen=True)
class Found:
    """A candidate, the operator set it is to be computed in, and where it comes from."""

    candidate: Candidate
    operators: str
    origin: str = ""


def find(function: str | Expr, operators: str | None = None, extra: tuple[Op, ...] = ()) -> Found:
    """The function that is meant, in its run's operator set or in `operators` [guarded]; `extra`
    are operators beyond the paper's. Raises ValueError or one of actsearch.errors."""
    if operators is not None:
        check_operator_set(operators)
    if isinstance(function, Expr):
        return Found(OneFunction(function), operators or "guarded")
    if "#" in function:
        return _ranked(function, operators, extra)
    return Found(candidate_from(function, extra), operators or "guarded")


def _ranked(text: str, operators: str | None, extra: tuple[Op, ...]) -> Found:
    """The function that RUN#RANK means."""
    path, _, rank = text.rpartition("#")
    if not path or not rank.isdecimal():
        raise UsageError(f"{text!r} is no RUN#RANK; write the run's folder and a rank: runs/tiny#3")
    run = Run.open(path)
    ranked = {entry.rank: entry for entry in run.leaderboard() if entry.rank is not None}
    if int(rank) not in ranked:
        has = f"its ranks are 1 to {len(ranked)}" if ranked else "none of its functions trained"
        raise NoCandidateError(f"{path} has no rank {rank}; {has}")
    own = run.config.get("settings", {}).get("operators")
    if own is None:
        raise UsageError(
            f"{path} has no config.json that says its operator set; give the formula instead, "
            f"{shlex.quote(ranked[int(rank)].formula)}, and the set"
        )
    if operators not in (None, own):
        raise UsageError(
            f"{path} was searched with the operator set {own}, not {operators}; leave out "
            "--operators, or give the formula"
        )
    expression = ranked[int(rank)].expression
    try:
        candidate = candidate_from(expression, extra)
    except ParseError as error:
        raise UsageError(
            f"{text} is {expression}, with operators of a space of your own; from Python, "
            "actsearch.export(..., space=space) takes it"
        ) from error
    return Found(candidate, own, f"rank {rank} of {_printable(run.name)}")


def find_all(
    words: Iterable[str], operators: str | None = None, extra: tuple[Op, ...] = ()
) -> list[Candidate]:
    """What `words` mean, each a group of known functions or one function as `find` takes it. Raises
    ValueError or one of actsearch.errors."""
    texts = [text for word in words for text in _members(word)]
    return [find(text, operators, extra).candidate for text in texts]


def all_canonical(
    words: Iterable[str], operators: str, extra: tuple[Op, ...] = ()
) -> list[Candidate]:
    """The canonical forms of `find_all`, each once."""
    found = find_all(words, operators, extra)
    return list(dict.fromkeys(candidate.canonical(operators) for candidate in found))


def _members(word: str) -> tuple[str, ...]:
    """The functions of a group; of a word that is none, itself. Raises ValueError for one that was
    meant as a group."""
    near = get_close_matches(word, [*GROUPS, *NAMED, *SYNONYMS, *OPERATORS], n=1)
    if word not in GROUPS and any(name in GROUPS for name in near):
        check_among("group of functions", word, GROUPS)
    return GROUPS.get(word, (word,))


def one_function(candidate: Candidate) -> Expr:
    """The function of x that a candidate is; raises UsageError where it is several."""
    if not isinstance(candidate, OneFunction):
        raise UsageError(
            f"{candidate.formula} is {len(candidate.functions)} functions, each for other layers; "
            "give one of them"
        )
    return candidate.expr


def _printable(name: str) -> str:
    """What a comment of any language can hold."""
    return re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)


def _read(text: str, operators: str | None) -> tuple[Expr, str]:
    found = find(text, operators)
    return one_function(found.candidate), found.operators


activation.ranked = _read
