"""The tables of docs/performance.md that are of an H100, from what was measured there.

    python benchmarks/h100.py [--data docs/data/h100.json]

`gpu_children.py` measures steps and children at once anew, `gpu_convolutions.py` convolutions and
how far they are off, `gpt_step.py --small` a GPT-2 small, `actsearch search` and `reevaluate`
trainings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actsearch.results.statistics import differences, estimate, interval
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.analysis.names import name_of
from actsearch.search_space.parser import parse

DATA = Path(__file__).parent.parent / "docs" / "data" / "h100.json"
RELU = "relu(x)"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def steps(rows: Sequence[dict[str, Any]]) -> str:
    """ms a step by way, a column a function."""
    functions = list(dict.fromkeys(row["function"] for row in rows))[:3]
    ways: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        way = row["precision"], row["activations"], row["graph"], row["convolutions"]
        ways.setdefault(way, {})[row["function"]] = row
    found = []
    for (precision, activations, graph, convolutions), of in ways.items():
        cells = [f"{of[f]['ms']:.2f} ({of[f]['peak_mb']} MB)" if f in of else "" for f in functions]
        launched = "one launch a step" if graph else "launch by launch"
        found.append([precision, activations, launched, convolutions, *cells])
    return table(["precision", "activations", "", "convolutions", *functions], found)


def at_once(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (row["convolutions"], row["processes"], row["at_once"], row["steps_a_second"],
         round(row["steps_a_second"] * 0.36))
        for row in rows
    ]  # fmt: skip
    return table(["convolutions", "processes", "children at once", "steps a second",
                  "times 10,000 an hour"], cells)  # fmt: skip


def convolutions(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (f"{r['in']} to {r['out']}, side {r['side']}, stride {r['stride']}", r["what"],
         r["cudnn_us"], r["own_us"])
        for r in rows
    ]  # fmt: skip
    return table(["convolution", "", "cuDNN, us", "ours, us"], cells)


def numerics(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (r["function"], *(f"{r[part][w]:.2g}" for part in ("grad", "logits") for w in r[part]))
        for r in rows
    ]
    return table(["function", "gradients, ours", "cuDNN's", "logits, ours", "cuDNN's"], cells)


def trainings(rows: Sequence[dict[str, Any]]) -> str:
    """Test accuracy in per cent, and the difference to ReLU by seed."""
    scores: dict[str, dict[int, float]] = {}
    for row in rows:
        scores.setdefault(row["function"], {})[row["seed"]] = 100 * row["test"]
    cells = []
    for function, of in sorted(scores.items(), key=lambda item: -sum(item[1].values())):
        found, apart = estimate(list(of.values())), differences(of, scores[RELU])
        bounds = interval(apart) if function != RELU else None
        known = name_of(canonical(parse(function)), "")
        between = "" if bounds is None else f"{bounds.low:+.2f} to {bounds.high:+.2f}"
        difference = "" if bounds is None else f"{sum(apart) / len(apart):+.2f}"
        mean = f"{found.mean:.2f} ± {found.standard_error:.2f}"
        cells.append((f"`{function}`", known, mean, len(of), difference, between))
    header = ["function", "name", "test accuracy", "n", "to ReLU", "95 % interval"]
    return table(header, cells)


def gpt(found: dict[str, Any]) -> str:
    cells = [
        (row["activation"], row["computed"], f"{row['ratio'] * found['gelu_ms']:.1f}",
         row["ratio"], row["gb"])
        for row in found["rows"]
    ]  # fmt: skip
    return table(["in a GPT-2 small", "", "ms a step", "of GELU's", "GB"], cells)


PARTS = {"steps": steps, "at_once": at_once, "convolutions": convolutions, "numerics": numerics,
         "trainings": trainings, "gpt2_small": gpt}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    found = json.loads(parser.parse_args().data.read_text())
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()), end="\n\n")
    for name, part in PARTS.items():
        print(part(found[name]), end="\n\n")
    for name in ("host", "steps_a_second_by_cache", "search", "kernels"):
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found[name].items()))
    small = found["small_children"]
    print(
        "small children: " + ", ".join(f"{key} {value}" for key, value in small.items())
        + f", {3600 * small['trainings'] / small['seconds']:,.0f} trainings an hour"
    )  # fmt: skip
    seconds = sorted(row["seconds"] for row in found["trainings"])
    whole, turn = found["trainings_seconds"], found["host"]["turn_ms_a_step"]
    print(
        f"{len(seconds)} trainings in {whole:.0f} s, {3600 * len(seconds) / whole:.0f} an hour; "
        f"seven in {seconds[0]:.0f} to {seconds[6]:.0f} s, {7 * 3600 / seconds[6]:.0f} an hour; "
        f"eight in {seconds[7]:.0f} to {seconds[-1]:.0f} s; by the turn at most "
        f"{360 / turn:.0f} an hour"
    )


if __name__ == "__main__":
    main()
