"""What `actsearch show`, `space` and `doctor` print."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actsearch.functions import find
from actsearch.origin import HOME, PACKAGES, shadowing
from actsearch.results.benchmarks import SPACE_OF, load_benchmark, metric_of
from actsearch.results.figures.functions import REACH, values_over
from actsearch.results.tables import show
from actsearch.results.version import own_version
from actsearch.search_space.activation import Activation
from actsearch.search_space.candidate import Candidate, candidate_from, same_candidate
from actsearch.search_space.expression import Expr, X, formula
from actsearch.search_space.kernels import c, compiler, libraries
from actsearch.search_space.kernels.tracing import trace
from actsearch.search_space.space import Space, everything
from actsearch.search_space.survey import (
    Described,
    Survey,
    describe,
    survey,
    with_fingerprints,
    with_rejections,
)
from actsearch.versions import untested

if TYPE_CHECKING:
    import pandas as pd

WIDTH, HEIGHT = 61, 13  # of a text plot
MARKS = "▼▿○▵▲"  # of a gate's curves, by g
COUNTABLE = 10_000  # spaces up to this size are counted whole
SAMPLE = 10_000  # of larger ones


def show_lines(text: str, said: str | None = None) -> list[str]:
    """What a formula, a name or RUN#RANK is, with plots of f and f' of its functions at the initial
    betas."""
    asked = find(text, said)
    operators = asked.operators
    candidate = asked.candidate.canonical(operators)
    found = describe(candidate, operators)
    counted = ("operators", "betas")  # which stand with their names above the properties
    properties = {k: v for k, v in found.properties.items() if k not in counted}
    return [
        *([f"name           {found.name}"] if found.name else []),
        f"formula        {candidate.formula}",
        f"canonical      {candidate.key}",
        *_parts(candidate),
        f"set            {operators}",
        f"screening      {found.rejected or 'passed'}",
        f"class          {found.fingerprint.symmetry}",
        *(f"{name:<15}{_shown(name, value)}" for name, value in properties.items()),
        *standing(found, operators),
        *(line for expr in candidate.functions for line in _plots(expr, candidate, operators)),
    ]


def _parts(candidate: Candidate) -> Iterator[str]:
    """Its operators and betas."""
    nodes = [node for expr in candidate.functions for node in expr.walk()]
    named = sorted({node.op.name for node in nodes if node.op.arity or node.beta is not None})
    applied = sum(expr.operators for expr in candidate.functions)
    yield f"operators      {applied}: {', '.join(named)}" if named else "operators      none"
    owners = [node for expr in candidate.functions for node in expr.owners()]
    betas = [f"{node.op.name} {node.beta:g}" for node in owners]
    initial = f" (initial {', '.join(betas)})" if betas else ""
    counts = ", ".join(f"{expr.betas}" for expr in candidate.functions)
    yield f"parameters     {counts} a channel{initial}"


def _plots(expr: Expr, candidate: Candidate, operators: str) -> list[str]:
    """f and f', of a gate f over x at some g; under the function's formula where there are
    several."""
    x = torch.linspace(-REACH, REACH, WIDTH, dtype=torch.float64)
    found = values_over(expr, x, operators)
    head = ["", formula(expr)] if len(candidate.functions) > 1 else []
    if len(expr.inputs) > 1:
        marked = ", ".join(f"{n} {mark}" for n, mark in zip(found, MARKS, strict=True))
        return [*head, "", *plot(f"f(x, g) over x: {marked}", *found.values(), marks=MARKS)]
    return [*head, *(line for n, v in found.items() for line in ("", *plot(f"{n}(x)", v)))]


def standing(found: Described, operators: str) -> Iterator[str]:
    """Where a function of the one-unit space stands in the tables that come with the package."""
    for name in SPACE_OF if operators == "guarded" else ():
        table = load_benchmark(name)
        alike = table.loc[table["symmetry"] == found.fingerprint.symmetry]
        rows = alike.to_dict(orient="records")
        known = ((r, candidate_from(str(r["expression"]))) for r in rows)
        row = next((r for r, other in known if same_candidate(other, found.candidate)), None)
        if row is not None:
            yield f"{name} table {_standing(row, table)}"


def _standing(row: Mapping[Any, Any], table: pd.DataFrame) -> str:
    recipe, child = (table.attrs["provenance"]["protocol"][k] for k in ("recipe", "child"))
    where, metric = f"({child}, {recipe['steps']} steps)", metric_of(table)
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']} {where}; another network may train it"
    mean, n = row[f"again {metric.name}"], row["again"]
    again = f", {metric.text(mean)} trained {n}x again" if n else ""
    score = f"{metric.text(row[metric.name])} on validation data"
    return f"rank {row['rank']:,.0f} of {len(table):,}: {score}{again} {where}"


def _shown(name: str, value: object) -> str:
    if value is None:
        return "does not settle" if name in ("slope_left", "slope_right") else "not finite"
    return show(value)


def plot(title: str, *curves: torch.Tensor, marks: str = "●") -> list[str]:
    """Curves over -REACH..REACH in text, a mark each; values that are not finite are left out."""
    values = torch.cat(curves)
    finite = values[torch.isfinite(values)]
    if len(finite) == 0:
        return [f"{title}: no finite value"]
    low, high = float(finite.min()), float(finite.max())
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    width = len(curves[0])
    grid = [[" "] * width for _ in range(HEIGHT)]

    def row(value: float) -> int:
        return round((high - value) / (high - low) * (HEIGHT - 1))

    if low <= 0 <= high:
        grid[row(0.0)] = ["·"] * width
    for line in grid:
        line[width // 2] = "·"
    for curve, mark in zip(curves, marks, strict=True):
        for column, value in enumerate(curve.tolist()):
            if low <= value <= high:
                grid[row(value)][column] = mark
    labels = {0: f"{high:.3g}", HEIGHT - 1: f"{low:.3g}"}
    body = [f"{labels.get(i, ''):>9} {''.join(line)}".rstrip() for i, line in enumerate(grid)]
    axis = f"{'':>9} {f'{-REACH:g}':<{WIDTH // 2}}0{f'{REACH:g}':>{WIDTH // 2}}"
    return [title, *body, axis]


def space_lines(space: Space) -> list[str]:
    """Sizes and operators of a space."""
    return [f"{term:<10} {value}" for term, value in (("space", space.spec), *space.facts())]


def distinct_lines(space: Space, operators: str, *, merged: bool) -> list[str]:
    """How many different functions a space has, or a sample of it where it is large."""
    whole = space.size <= COUNTABLE
    found = survey(everything(space) if whole else sample(space, SAMPLE), operators)
    lines = [
        "",
        "of the whole space" if whole else f"of a random sample of {found.raw:,}",
        f"  candidates          {found.raw:>7,}",
        f"  canonical forms     {found.canonical:>7,}   {found.seconds['canonical']:.2f} s",
    ]
    rejected = found.rejected.most_common()
    lines += [f"  rejected            {found.rejected.total():>7,}   {_s(found, 'screening')}"]
    lines += [f"    {kind:<18}{count:>7,}" for kind, count in rejected]
    lines += [
        f"  distinct by rule    {found.by_rule:>7,}",
        f"  by fingerprint      {len(found.distinct):>7,}   {_s(found, 'fingerprints')}",
        *[f"  up to exchange      {found.up_to_exchange:>7,}"] * (len(space.inputs) > 1),
        f"  symmetry classes    {found.symmetry_classes:>7,}",
    ]
    if merged:
        lines += ["", "merged by fingerprint alone:"]
        lines += [f"  {a.key} = {b.key}" for a, b in found.merged]
    return lines


def _s(found: Survey, stage: str) -> str:
    return f"{found.seconds[stage]:.2f} s"


def sample(space: Space, n: int) -> Iterator[Candidate]:
    """`n` candidates of a large space, drawn with a fixed seed."""
    rng = random.Random(0)
    return (space.decode(space.digits(rng.randrange(space.size))) for _ in range(n))


def listed_lines(space: Space, operators: str) -> Iterator[str]:
    """`canonical form <tab> symmetry class` of each candidate that is worth training, once."""
    seen: set[Candidate] = set()
    keys: dict[str, list[Candidate]] = {}
    waiting = iter(everything(space))
    while batch := list(islice(waiting, 1_000)):
        forms = dict.fromkeys(candidate.canonical(operators) for candidate in batch)
        new = [form for form in forms if form not in seen]
        seen.update(new)
        kept = [form for form, rejection in with_rejections(new, operators) if not rejection]
        for form, found in with_fingerprints(kept, operators):
            same = keys.setdefault(found.key, [])
            if not any(same_candidate(k, form, operators) for k in same):
                same.append(form)
                yield f"{form.key}\t{found.symmetry}"


Check = tuple[str, str, bool]  # what, what was found, whether it is well


def checks() -> Iterator[Check]:
    """Each look at the machine, in order."""
    yield "python", platform.python_version(), sys.version_info >= (3, 11)
    yield "actsearch", own_version(), True
    for name in ("torch", "torchvision", "ray", "numpy", "pandas", "mlxtend"):
        yield from _guarded(name, lambda name=name: importlib.metadata.version(name))
    for sentence in untested():
        yield "untested version", sentence, True
    yield from _guarded("torchvision imports", _torchvision)
    yield "processors", f"{os.cpu_count()}", True
    yield from _guarded("GPUs", _gpus)
    yield from _guarded("generated kernels", _kernels)
    if torch.cuda.is_available():
        yield from _guarded("kernels on the GPU", _gpu_kernels)
    yield "installed in", str(HOME), all((HOME / name).is_dir() for name in PACKAGES)
    here = Path.cwd()
    hidden = shadowing(here)
    yield "this folder", hidden[0] + " hides actsearch" if hidden else str(here), not hidden
    usage = shutil.disk_usage(here)
    yield "free disk", f"{usage.free / 2**30:,.1f} GiB", usage.free > 0.05 * usage.total
    temporary = shutil.disk_usage(os.environ.get("RAY_TMPDIR", "/tmp"))
    yield (
        "Ray's disk",
        f"{100 * temporary.used / temporary.total:.0f} % used; Ray stops storing at 95 %",
        temporary.used < 0.95 * temporary.total,
    )


def _guarded(name: str, look: Callable[[], str]) -> Iterator[Check]:
    try:
        yield name, look(), True
    except Exception as error:
        yield name, f"{type(error).__name__}: {error}", False


def _kernels() -> str:
    """Builds one."""
    if compiler.compiler() is None:
        return "no C compiler ($CC, cc, gcc, clang): children run eagerly, two to four times slower"
    source = c.source(trace(X, "guarded"), "float32", "flat")
    libraries.opened(source, partial(libraries.load, with_betas=False))
    missing = [name for name in compiler.FUNCTIONS if name not in compiler.vector_functions()]
    vectors = f"all but {' and '.join(missing)}" if missing else "all"
    where = libraries.cache_folder()
    return f"by {compiler.compiler()}, {vectors} functions as vectors, in {where}"


def _gpus() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or "none: children train on the processors"


def _gpu_kernels() -> str:
    """Runs one and compares it; Triton needs a C compiler and Python's headers as it runs."""
    x = torch.linspace(-3.0, 3.0, 64, device="cuda")[None].requires_grad_()
    values = []
    for kernels in ("generated", "eager"):
        activation = Activation("x * sigmoid(beta * x)", 64, kernels=kernels).to("cuda")
        y = activation(x)
        values.append([y.detach(), *torch.autograd.grad(y.sum(), [x, *activation.beta])])
    torch.testing.assert_close(*values)
    return "by triton, equal to eager mode"


def _torchvision() -> str:
    from actsearch.child_models.data.torchvision_import import import_torchvision

    return f"yes ({import_torchvision().__version__})"


def doctor_lines(found: list[Check]) -> list[str]:
    return [f"{'ok ' if well else 'BAD'} {what:<20} {text}" for what, text, well in found]
