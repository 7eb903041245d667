"""A proposer for `actsearch search --strategy "external:python examples/proposer.py"`.

It replaces a part of one of the best functions so far by another, as its table says. The messages
are in docs/proposers.md; a language model could stand in the place of `mutants`.
"""

import json
import random
import sys

SWAPS = {"relu": "tanh", "tanh": "erf", "erf": "sin", "sin": "relu", "sigmoid": "tanh", "x": "(-x)"}
random.seed(0)
best = [(0.0, "x * sigmoid(x)"), (0.0, "relu(x)")]  # merit, and the formula


def mutants(n: int) -> list[str]:
    found = []
    for _ in range(n):
        _, formula = max(random.choices(best, k=2))  # a tournament of two
        old = random.choice([part for part in SWAPS if part in formula])
        found.append(random.choice([formula.replace(old, SWAPS[old]), f"x * ({formula})"]))
    return found


for line in sys.stdin:
    message = json.loads(line)
    if "ask" in message:
        print(json.dumps({"formulas": mutants(message["ask"])}), flush=True)
    elif (told := message["outcome"])["score"] is not None:
        best.append((told["score"] * (1 if told["better"] == "higher" else -1), told["formula"]))
