"""The first proposals of every strategy, as commit 17c99fe made them: a golden file.

Rewards are a pseudo-accuracy, a hash of the digits, and 15 % of the candidates fail. Where a
strategy is to propose something else from now on, `python tests/test_first_proposals.py` writes the
file anew; say so in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from actsearch.controller.strategies import STRATEGIES, strategy_from
from actsearch.search_space.space import space_from

GOLDEN = Path(__file__).parent / "golden" / "first_proposals.json"
BARE = (*STRATEGIES, "ppo:mode=async", "ppo:model=none", "ppo:model=none,mode=async")
# Small cohorts, so that several end and the strategy inside is told within the proposals.
KEYS = [
    f"{strategy}{halving} in {space}"
    for strategy in BARE
    for halving in ("", "+halving:cohort=12")
    for space in ("tiny", "two-units")
]
PROPOSALS = 60
AT_ONCE = 4  # asked for together, and told in reverse
FAILING = 0.15


def pseudo_accuracy(digits: tuple[int, ...]) -> float | None:
    """Uniform in 0.15..1 by the hash of the digits; None, a failure, for the lowest 15 %."""
    hashed = hashlib.sha256(repr(digits).encode()).hexdigest()[:8]
    value = int(hashed, 16) / 0xFFFFFFFF
    return None if value < FAILING else round(value, 4)


def first_proposals(key: str) -> list[list[float]]:
    """Of each proposal the index of its digits in the space, and its share of the steps."""
    name, _, where = key.partition(" in ")
    space = space_from(where)
    strategy = strategy_from(name, space, seed=3)
    found: list[list[float]] = []
    while len(found) < PROPOSALS:
        asked = strategy.ask(AT_ONCE)
        found += [[space.index(p.digits), p.share] for p in asked]
        for proposal in reversed(asked):
            strategy.tell(proposal, pseudo_accuracy(proposal.digits))
    return found[:PROPOSALS]


@pytest.mark.parametrize(
    "key",
    [pytest.param(k, marks=[pytest.mark.thorough] if "halving" in k else []) for k in KEYS],
)
def test_a_strategy_proposes_what_it_did_at_first(key: str) -> None:
    assert first_proposals(key) == json.loads(GOLDEN.read_text())[key]


def test_the_golden_file_holds_no_other_strategies() -> None:
    assert set(json.loads(GOLDEN.read_text())) == set(KEYS)


if __name__ == "__main__":
    lines = (
        f"{json.dumps(key)}: {json.dumps(first_proposals(key), separators=(',', ':'))}"
        for key in KEYS
    )
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
