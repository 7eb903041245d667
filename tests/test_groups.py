"""One function for each group of layers: its space, what counts as the same, what a layer gets, and
a search from start to end."""

from __future__ import annotations

import random
import runpy
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch import cli
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.training.inspection import activations
from actsearch.controller.strategies import STRATEGIES
from actsearch.errors import RunError, UsageError
from actsearch.results.records import Outcome, Trial
from actsearch.search_space.candidate import FunctionPerGroup, OneFunction, candidate_from
from actsearch.search_space.parser import ParseError, parse
from actsearch.search_space.space import GroupSpace, everything, space_from
from actsearch.search_space.survey import describe, survey

Arrays = tuple[np.ndarray, np.ndarray]

SMALL = "groups=2;units=1;unary=identity,neg,relu;binary=add,max"
UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "neg": lambda x: -x,
    "relu": lambda x: np.where(x > 0, x, 0.0),
}
BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": lambda a, b: a + b,
    "max": lambda a, b: np.where(a > b, a, b),
}


# -- the space


def test_the_digits_of_the_groups_stand_side_by_side() -> None:
    space = space_from("groups=3;units=1;unary=identity,sin,relu;binary=add,mul")
    digits = (0, 0, 1, 0, 1, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0)
    assert space.radices == (1, 1, 3, 3, 2) * 3
    assert space.decode(digits).key == "mul(sin(x), x) | add(relu(x), relu(x)) | add(x, x)"
    assert space.size == 18**3
    with pytest.raises(ValueError, match="15 digits, not 5"):
        space.decode(digits[:5])


@pytest.mark.parametrize("text", ["groups=2;tiny", "groups=8;two-units", SMALL])
def test_a_space_of_groups_is_made_again_from_its_spec_and_counts(text: str) -> None:
    space, chance = space_from(text), random.Random(1)
    assert space.spec == text
    assert space_from(space.spec) == space
    for i in [0, space.size - 1, *(chance.randrange(space.size) for _ in range(100))]:
        digits = space.digits(i)
        assert space.index(digits) == i
        candidate = space.decode(digits)
        assert candidate_from(candidate.key) == candidate
        candidate_from(candidate.formula)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("groups=9;tiny", "fall into 2 to 8 groups, not 9"),
        ("groups=1;tiny", "fall into 2 to 8 groups, not 1"),
        ("groups=two;tiny", "groups=two is no number of groups; use 2 to 8"),
        ("groups=2;groups=3;tiny", "groups is given twice"),
        ("groups=3;tinny", "did you mean 'tiny'"),
        ("group=3;units=1", "did you mean 'groups'"),
    ],
)
def test_a_wrong_spec_is_answered_with_a_way_out(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        space_from(text)


def test_features_are_those_of_the_groups_side_by_side() -> None:
    space, each = space_from("groups=2;tiny"), space_from("tiny")
    one, other = each.digits(17), each.digits(101)
    [found] = space.features(np.array([one + other]))  # type: ignore[reportGeneralTypeIssues]
    alone = each.features(np.array([one, other]))
    assert alone is not None
    assert np.array_equal(found, alone.flatten())


# -- what is the same, and what is rejected


def test_candidates_are_merged_where_every_groups_function_is_the_same() -> None:
    """Counted by values that this test computes itself."""
    x = np.linspace(-3, 3, 61)
    values = [
        BINARY[b](UNARY[one](x), UNARY[two](x)) for one, two, b in product(UNARY, UNARY, BINARY)
    ]
    functions = {tuple(np.round(v, 9)) for v in values}
    found = survey(everything(space_from(SMALL)), screening=False)
    assert found.raw == len(values) ** 2 == 324
    assert len(found.distinct) == len(functions) ** 2
    alone = [c for c in found.distinct if isinstance(c, OneFunction)]
    assert len(alone) == len(functions)  # the pairs of equal ones


def test_the_same_function_in_every_group_is_that_function() -> None:
    again = candidate_from("x*sigmoid(x) | x*sigmoid(x) | sigmoid(x)*x").canonical("guarded")
    assert again == candidate_from("x*sigmoid(x)").canonical("guarded")
    by_values = describe(candidate_from("max(relu(x), tanh(x)) | relu(x)").canonical("guarded"))
    assert by_values.fingerprint.key == describe(candidate_from("relu(x)")).fingerprint.key


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("relu(x) | x", None),  # the identity is a group of layers without activation
        ("x | tanh(x) | 2*x", None),
        ("x | 2*x | -x", "affine in x: the network would be linear"),
        ("relu(x) | x - x", "constant (group 2)"),
        ("x | 0*x", "constant (group 2)"),
        ("relu(x) | sqrt(x) | x", "value nan at x = -10 (group 2)"),
    ],
)
def test_a_group_may_be_affine_unless_all_are_and_nothing_else_may_fail(
    text: str, reason: str | None
) -> None:
    found = describe(candidate_from(text).canonical("paper"), "paper").rejected
    assert (found and found.reason) == reason


def test_a_formula_of_groups_is_read_and_a_wrong_one_gets_a_sentence() -> None:
    read = candidate_from("relu |x * sigmoid(beta*x)| gelu")
    assert read.key.count(" | ") == 2
    assert read.functions[0] == parse("relu(x)")
    with pytest.raises(ParseError, match="empty"):
        candidate_from("relu(x) | ")
    with pytest.raises(ValueError, match="2 to 8 groups, not 9"):
        candidate_from(" | ".join(["x"] * 9))


# -- what a layer gets


IMAGES = np.random.default_rng(0).normal(size=(90, 3, 32, 32)).astype(np.float32)
LABELS = np.arange(90) % 3
THREE = ("sin(x)", "mul(x, sigmoid(scale(x)))", "tanh(x)")


def evaluator(child: Any, steps: int = 3) -> Evaluator:
    data = make_dataset("images", (IMAGES, LABELS))
    recipe = Recipe(steps=steps, batch_size=16, lr=0.05)
    return Evaluator(data, child_from(child), recipe, kernels="eager")


def test_each_third_of_the_activations_has_its_function() -> None:
    model = evaluator("resnet8:width=4").build(" | ".join(THREE))
    found = [str(a.expr) for a in activations(model)]
    assert found == [THREE[0]] * 3 + [THREE[1]] * 2 + [THREE[2]] * 2


def test_groups_are_as_equal_as_they_can_be_and_none_is_empty() -> None:
    from actsearch.search_space.candidate import group_of

    for groups in range(2, 9):
        for total in range(groups, 60):
            sizes = Counter(group_of(i, total, groups) for i in range(total))
            assert sorted(sizes) == list(range(groups))
            assert max(sizes.values()) - min(sizes.values()) <= 1


@pytest.mark.parametrize("child", ["resnet8:width=4", "torchvision:squeezenet1_1:size=64"])
def test_a_child_has_the_weights_that_its_seed_gives_to_any_candidate(child: str) -> None:
    evaluate, states = evaluator(child), []
    for key in ("sin(x) | tanh(x)", "relu(x)", "tanh(x) | sin(x)"):
        torch.manual_seed(3)
        states.append(evaluate.build(key).state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_a_model_of_a_zoo_has_its_groups_in_the_order_of_its_calls() -> None:
    model = evaluator("torchvision:squeezenet1_1:size=64").build("sin(x) | tanh(x)")
    called: list[str] = []
    for activation in activations(model):
        activation.register_forward_pre_hook(lambda module, _: called.append(str(module.expr)))
    model(torch.zeros(2, 3, 32, 32))
    half = -(-len(called) // 2)
    assert called == ["sin(x)"] * half + ["tanh(x)"] * (len(called) - half)
    assert len(called) > 8


@pytest.mark.parametrize("function", ["relu(x)", "mul(x, sigmoid(scale(x)))"])
def test_one_function_in_every_group_trains_as_the_function_does_to_the_digit(
    function: str,
) -> None:
    evaluate = evaluator("resnet8:width=4", steps=6)
    key = " | ".join([function] * 3)
    assert isinstance(candidate_from(key), FunctionPerGroup)
    plain, repeated = (evaluate(Trial(0, "search", k, "", 1)) for k in (function, key))
    assert plain.status == repeated.status == "ok"
    assert repeated.curve == plain.curve
    assert repeated.val_score == plain.val_score


def test_betas_are_recorded_function_by_function() -> None:
    evaluate = evaluator("resnet8:width=4")
    evaluate.inspect = True
    outcome = evaluate(Trial(0, "reevaluate", f"relu(x) | {THREE[1]} | scale(x)", "", 1))
    assert outcome.status == "ok", outcome.reason
    widths = [a.channels for a in activations(evaluate.build("scale(x)"))]
    assert [len(values) for values in outcome.details["betas"]] == [
        sum(w for w in widths[3:5] if w),
        sum(w for w in widths[5:] if w),
    ]


# -- a search


def net(make_activation: Callable[[int], nn.Module]) -> nn.Module:
    layers = [nn.Linear(8, 6)]
    return nn.Sequential(
        layers[0], make_activation(6), nn.Linear(6, 6), make_activation(6), nn.Linear(6, 6),
        make_activation(6), nn.Linear(6, 3),
    )  # fmt: skip


QUICK: dict[str, Any] = {"steps": 15, "batch_size": 16, "executor": "inline", "quiet": True}


def search(folder: Path, blobs: Arrays, **options: Any) -> actsearch.Run:
    given = {"child": net, "dataset": blobs, "space": "tiny", "groups": 3, **QUICK, **options}
    return actsearch.search(folder, **given)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "random+halving:eta=2,cohort=4"])
def test_every_strategy_searches_groups(tmp_path: Path, blobs: Arrays, strategy: str) -> None:
    if strategy == "surrogate":
        strategy = "surrogate:initial=2,pool=20"
    run = search(tmp_path, blobs, strategy=strategy, budget=5)
    rows = [row for row in run.functions() if not row["beside"]]
    assert sum(row["status"] not in (None, "rejected") for row in rows) == 5
    assert all(len(candidate_from(row["expression"]).functions) in (1, 3) for row in rows)
    assert run.config["identity"]["space"] == "groups=3;tiny"


def test_every_candidate_of_a_small_space_is_trained_once(tmp_path: Path, blobs: Arrays) -> None:
    run = search(tmp_path, blobs, space=SMALL, groups=None, steps=2)
    expected = survey(everything(space_from(SMALL)))
    rows = run.functions()
    tried = {row["expression"] for row in rows if row["status"] != "rejected"}
    # swish and the identity stand beside the search, and relu is the candidate relu(x) | relu(x)
    assert len(tried) == len(expected.distinct) + 2
    assert "relu(x)" in tried
    assert "relu(x) | relu(x)" not in tried
    rejected = {row["reason"] for row in rows if row["status"] == "rejected"}
    assert all("group" in reason or "affine" in reason for reason in rejected - {"constant"})


def test_a_search_with_racing_stops_what_is_behind(tmp_path: Path, blobs: Arrays) -> None:
    run = search(tmp_path, blobs, strategy="random", budget=25, racing="loss:5=0.3")
    assert run.counts()["raced_out"] > 0


def test_a_run_of_groups_goes_on_as_one_that_was_not_broken_off(
    tmp_path: Path, blobs: Arrays
) -> None:
    options: dict[str, Any] = {"strategy": "evolution:population=4,tournament=2", "steps": 3}
    whole = search(tmp_path / "whole", blobs, budget=8, **options)
    search(tmp_path / "broken", blobs, budget=3, **options)
    on = actsearch.search(
        tmp_path / "broken", child=net, dataset=blobs, budget=8, executor="inline", quiet=True
    )

    def found(run: actsearch.Run) -> list[tuple[Any, ...]]:
        names = ("expression", "status", "val_score")
        return [tuple(row[name] for name in names) for row in run.rows()]

    assert found(on) == found(whole)
    with pytest.raises(RunError, match="groups=3;tiny"):
        search(tmp_path / "broken", blobs, groups=2, budget=8)


def test_a_child_with_too_few_activations_is_refused_before_anything_is_stored(
    tmp_path: Path, blobs: Arrays
) -> None:
    with pytest.raises(ValueError, match=r"4 groups of layers need 4 .* makes 3 activations"):
        search(tmp_path / "run", blobs, groups=4)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="makes 3 activations"):
        actsearch.reevaluate(
            tmp_path / "new", functions=["x|relu(x)|x|relu(x)"], child=net, dataset=blobs, **QUICK
        )


@pytest.mark.thorough
def test_a_run_of_groups_is_ranked_reevaluated_shown_and_reported(
    tmp_path: Path, blobs: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    run = search(tmp_path / "run", blobs, strategy="random", budget=4)
    table = actsearch.reevaluate(run, top=1, seeds=2, child=net, dataset=blobs, **QUICK)
    best = next(e for e in run.leaderboard() if not e.beside)
    assert set(table["formula"]) == {best.formula, "relu(x)", "x * sigmoid(beta * x)"}
    assert best.formula.count(" | ") == 2
    chosen = actsearch.reevaluate(
        run, functions=["sin(x)|x|tanh(x)"], seeds=2, child=net, dataset=blobs, **QUICK
    )
    assert "sin(x) | x | tanh(x)" in set(chosen["formula"])
    assert cli.main(["top", str(run.path), "-f", "markdown"]) == 0
    assert best.formula.replace("|", "\\|") in capsys.readouterr().out
    assert cli.main(["show", best.formula]) == 0
    assert capsys.readouterr().out.count("f'(x)") == 3
    page = actsearch.report(run).read_text()
    gallery = page.split('<section id="gallery">')[1].split("</section>")[0]
    for card in gallery.split("<figure>")[1:]:
        drawn = 1 if "(silu)" in card or card.count("<span>|</span>") == 0 else 3
        assert card.count("<svg") == drawn
    assert page.count("<span>|</span>") >= 4
    assert cli.main(["plot", str(run.path), "--of", "functions", "-o", str(tmp_path / "f")]) == 0


# -- export


def test_exported_groups_compute_what_the_childs_activations_do() -> None:
    key = f"sqrt(x) | {THREE[1]} | mul(sqrt(x), mix(x, sin(x)))"
    code = actsearch.export(key, "torch")
    assert isinstance(code, str)
    found: dict[str, Any] = {}
    exec(compile(code, "exported.py", "exec"), found)  # noqa: S102
    model = evaluator("resnet8:width=4").build(key)
    layers = activations(model)
    for number, layer in enumerate(layers):
        x = torch.randn(4, layer.channels or 1, 3, 3)
        made = found["make_activation"](number, len(layers), layer.channels)
        assert torch.equal(made(x), layer(x)), number
        assert made.state_dict().keys() == layer.state_dict().keys()
    plain = {}
    exec(compile(str(actsearch.export(key, "python")), "exported.py", "exec"), plain)  # noqa: S102
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    for number in (1, 2, 3):
        expected = actsearch.Activation(candidate_from(key).functions[number - 1])(x)
        values = [plain[f"activation_{number}"](v) for v in x.tolist()]
        assert values == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("to", ["c", "sympy", "onnx"])
def test_a_language_of_one_function_a_file_says_so(to: str) -> None:
    with pytest.raises(
        UsageError, match=r"one function a file.*one after the other, first 'relu\(x\)'"
    ):
        actsearch.export("relu(x) | x", to)
    assert isinstance(actsearch.export("relu(x) | relu(x)", "latex"), str)


@pytest.mark.parametrize("to", ["c", "sympy"])
def test_groups_with_one_function_are_that_function_in_every_language(to: str) -> None:
    assert actsearch.export("relu(x) | max(x, 0)", to) == actsearch.export("relu(x)", to)


def test_a_layer_takes_one_function_and_says_so(tmp_path: Path, blobs: Arrays) -> None:
    search(tmp_path / "run", blobs, strategy="random", budget=3)
    run = actsearch.Run.open(tmp_path / "run")
    rank = next(e.rank for e in run.leaderboard() if " | " in e.formula and e.rank)
    with pytest.raises(UsageError, match="3 functions, each for other layers"):
        actsearch.Activation(f"{run.path}#{rank}")


def test_groups_of_groups_are_no_space() -> None:
    from actsearch.search_space.space import in_groups

    again = in_groups(in_groups(space_from("tiny"), 2), 3)
    assert again == GroupSpace(space_from("tiny"), 3)


def test_a_candidate_that_cannot_train_is_an_outcome() -> None:
    outcome = evaluator("resnet8:width=4")(Trial(0, "search", " | ".join(["x"] * 8), "", 0))
    assert isinstance(outcome, Outcome)
    assert outcome.status == "failed"
    assert "8 groups of layers need 8 activations" in outcome.reason


def test_an_exported_factory_refuses_places_that_no_network_has(tmp_path: Path) -> None:
    (tmp_path / "found.py").write_text(str(actsearch.export("relu(x) | sin(x) | x", "torch")))
    make_activation = runpy.run_path(str(tmp_path / "found.py"))["make_activation"]
    for number, total in ((-1, 3), (3, 3), (0, 0), (0, 2)):
        with pytest.raises(ValueError, match="number is from 0 to total - 1"):
            make_activation(number, total, 4)


def test_two_numbers_of_groups_are_refused() -> None:
    with pytest.raises(UsageError, match=r"groups=3;tiny has 3 groups; say one number"):
        actsearch.search("run", space="groups=3;tiny", groups=2)


def test_what_cannot_be_called_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="3 cannot be"):
        actsearch.search(tmp_path / "run", callbacks=[3])  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "run").exists()


def test_a_space_of_another_type_gets_a_sentence() -> None:
    with pytest.raises(UsageError, match="must be a name, such as 'tiny', or a Space"):
        actsearch.search("run", space=3)  # pyright: ignore[reportArgumentType]
