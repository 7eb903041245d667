"""Known functions are called by their names, in whichever form they were written or found."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import actsearch
from actsearch import cli
from actsearch.results.records import Outcome
from actsearch.results.store import Store
from actsearch.run import Run
from actsearch.search_space.activation import Activation
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.baselines import BASELINES, FORMS, GROUPS, MODERN, NAMED, OTHERS
from actsearch.search_space.candidate import OneFunction
from actsearch.search_space.export.exporters import check_name
from actsearch.search_space.expression import exchanged
from actsearch.search_space.parser import MAX_DEPTH, ParseError, parse
from actsearch.search_space.survey import describe


def xielu(x: float, alpha_p: float = 0.8, alpha_n: float = 0.8) -> float:
    """As its authors have it, by cases, with their initial alphas and a beta of 0.5."""
    return alpha_p * x**2 + x / 2 if x > 0 else alpha_n * (math.expm1(x) - x) + x / 2


# As their authors have them, in arithmetic of one number.
THEIRS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "serf": lambda x: x * math.erf(math.log1p(math.exp(x))),
    "relu2": lambda x: x**2 if x > 0 else 0.0,
    "xielu": xielu,
    "telu": lambda x: x * math.tanh(math.exp(x)),
    "golu": lambda x: x * math.exp(-math.exp(-x)),
    "gelu_sinc": lambda x: float(x * mpmath.ncdf(x) * (1 + mpmath.sincpi(x) / 2)),
    "leaky_relu2": lambda x: x**2 if x > 0 else x**2 / 4,
    "smooth_relu2": lambda x: x * (x + math.hypot(x, 0.2)) / 2,
}

# As torch or their authors have them.
TORCHS = {
    "identity": lambda x: x,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "snake": lambda x: x + (1 - torch.cos(2 * x)) / 2,
}


@pytest.mark.parametrize("name", [*MODERN, *OTHERS])
@pytest.mark.parametrize("operators", ["guarded", "paper"])
def test_known_functions_are_those_of_their_authors(name: str, operators: str) -> None:
    x = torch.linspace(-12, 12, 97, dtype=torch.float64)
    found = Activation(name, operators=operators)(x)
    theirs = (
        torch.tensor([THEIRS[name](float(z)) for z in x], dtype=torch.float64)
        if name in MODERN
        else TORCHS[name](x)
    )
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-6)


def test_xielu_is_that_of_its_authors_for_every_alpha_that_it_can_learn() -> None:
    layer = Activation("xielu", channels=1)
    right, left = layer.beta  # their alphas are softplus(right) and 0.5 + softplus(left)
    with torch.no_grad():
        right.fill_(-1.5)
        left.fill_(2.0)
    x = torch.linspace(-4, 4, 33, dtype=torch.float64).reshape(-1, 1)
    alphas = math.log1p(math.exp(-1.5)), 0.5 + math.log1p(math.exp(2.0))
    theirs = [[xielu(float(z), *alphas)] for z in x]
    torch.testing.assert_close(layer(x), torch.tensor(theirs, dtype=torch.float64))


def test_groups_are_the_papers_nine_ten_later_ones_and_both() -> None:
    assert len(GROUPS["paper"]) == 9
    assert set(GROUPS["modern"]) == {
        "relu2", "leaky_relu2", "mish", "golu", "silu", "gelu_sinc", "telu", "serf",
        "smooth_relu2", "xielu",
    }  # fmt: skip
    assert GROUPS["all"] == GROUPS["paper"] + GROUPS["modern"]


@pytest.mark.parametrize("operators", ["guarded", "paper"])
def test_the_table_of_forms_has_the_canonical_form_of_each_and_one_name_of_it(
    operators: str,
) -> None:
    both = {
        name: {str(canonical(e, operators)) for e in (parse(text), exchanged(parse(text)))}
        for name, text in NAMED.items()
    }
    assert set().union(*both.values()) == FORMS.keys()
    assert set(FORMS.values()) == NAMED.keys() - {"swish-1"}  # which is silu
    for form, name in FORMS.items():
        assert form in both[name]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x * sigmoid(x)", "silu"),
        ("swish-1", "silu"),
        ("x * relu(x)", "relu2"),
        ("0.5*x*(1 + erf(0.7071067811865476*x))", "gelu"),
        ("max(x, softplus(x))", "softplus"),  # no rule says so
        ("x - softplus(x)", "logsigmoid"),
        ("max(relu(x), tanh(x))", "relu"),
        ("x * sigmoid(beta[2]*x)", ""),  # starts as another function than swish
        ("x * sin(x)", ""),
    ],
)
def test_a_function_has_its_name_in_whichever_form(text: str, name: str) -> None:
    assert describe(OneFunction(canonical(parse(text)))).name == name


def test_names_are_read_and_unknown_ones_get_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["show", "mish"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[:2] == [
        "name           mish",
        "formula        x * tanh(softplus(x))",
    ]
    assert cli.main(["show", "misch"]) == 2
    assert "Did you mean mish?" in capsys.readouterr().err
    assert cli.main(["show", "x * sin(x)"]) == 0
    assert "name  " not in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMED)
def test_nesting_known_functions_ends_at_the_depth_of_trees(name: str) -> None:
    with pytest.raises(ParseError, match=f"{MAX_DEPTH} deep"):
        parse(f"{name}(" * 40 + "x" + ")" * 40)


@pytest.mark.parametrize("name", sorted(set(FORMS.values())))
def test_code_is_named_for_the_function_that_it_computes(name: str) -> None:
    assert check_name(name) == name
    code = actsearch.export(NAMED[name], "python")
    assert isinstance(code, str)
    module: dict[str, object] = {}
    exec(code, module)  # noqa: S102
    inputs = (0.5, -1.25)[: Activation(name).inputs]
    expected = float(Activation(name)(*(torch.tensor([[t]]).double() for t in inputs)).detach())
    value = module[name](*inputs)  # type: ignore[operator]
    assert math.isclose(value, expected, rel_tol=1e-6)


def test_a_search_stores_the_names_of_what_it_trains(
    tmp_path: Path, blobs: tuple[np.ndarray, np.ndarray]
) -> None:
    run = actsearch.search(
        tmp_path / "run",
        space="units=1;unary=identity,relu,sigmoid,softplus;binary=mul,max",
        dataset=blobs, child="mlp", steps=5, executor="inline", quiet=True,
    )  # fmt: skip
    names = {row["expression"]: row["label"] for row in run.rows()}
    assert names["mul(x, sigmoid(x))"] == "silu"
    assert names["square(relu(x))"] == "relu2"
    [softplus] = [e for e, name in names.items() if name == "softplus"]
    assert softplus == "max(x, softplus(x))"  # stored in the form that was met first
    assert {e.label for e in run.leaderboard()} >= {"relu", "swish", "silu", "relu2"}
    table = actsearch.reevaluate(
        run, functions=["mish", "x - softplus(x)"], dataset=blobs, steps=5, seeds=1,
        executor="inline", quiet=True, baselines="paper",
    )  # fmt: skip
    assert set(table["name"]) == {*BASELINES, "silu", "mish", "logsigmoid"} - {"swish-1"}


def test_a_run_of_before_names_were_stored_has_them_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "run.sqlite", create=True)
    store.add_protocol("p", {"child": "mlp", "operators": "guarded"})
    trial = store.submit("search", "mul(x, sigmoid(x))", "p", 0, formula="x * sigmoid(x)")
    store.record(trial, Outcome("ok", val_score=0.9))
    store.close()
    assert [e.label for e in Run.open(tmp_path).leaderboard()] == ["silu"]
    assert cli.main(["top", str(tmp_path), "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "silu"
