"""Models of torchvision and timm as children: what is replaced in them, and what cannot be had."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actsearch
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.model_zoos import ACTIVATIONS, SIDES, ZOOS, ZooModel
from actsearch.child_models.networks.replacement import Match, Site, put_activations
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import Recipe
from actsearch.results.records import Trial
from actsearch.search_space.activation import Activation

pytestmark = pytest.mark.usefixtures("one_thread")

SWISH = "x * sigmoid(beta * x)"
MODULES = tuple(kind for kind in ACTIVATIONS if isinstance(kind, type))
GATES = (nn.Sigmoid, nn.Hardsigmoid)
swish = partial(Activation, SWISH)


def activations(model: nn.Module) -> list[Activation]:
    return [m for m in model.modules() if isinstance(m, Activation)]


def take_a_step(model: nn.Module, x: torch.Tensor, classes: int) -> None:
    """Forward and backward; every beta has a gradient, and nothing that matches is left."""
    y = model(x)
    assert y.shape == (len(x), classes)
    y.logsumexp(1).sum().backward()
    assert all(a.beta[0].grad is not None for a in activations(model))
    sites = [m for m in model.modules() if isinstance(m, Site)]
    assert sites
    assert all(len(site.activations) for site in sites)
    assert not any(type(m) in MODULES for m in model.modules())


# Counted in the published architectures: those of convnext and vit follow a linear layer, the SE
# blocks of efficientnet have a SiLU each beside their gate.
TORCHVISION = [
    ("mobilenet_v2", 32, 35, {1}, 0),
    ("densenet121", 32, 121, {1}, 0),
    ("inception_v3", 75, 94, {1}, 0),
    ("googlenet", 32, 57, {1}, 0),
    ("convnext_tiny", 32, 18, {-1}, 0),
    ("vit_b_16", 32, 12, {-1}, 0),
    ("efficientnet_b0", 32, 49, {1}, 16),
    ("shufflenet_v2_x0_5", 32, 37, {1}, 0),
]


@pytest.mark.parametrize(
    ("name", "size", "count", "dims", "gates"),
    [
        row if i < 5 else pytest.param(*row, marks=pytest.mark.slow)
        for i, row in enumerate(TORCHVISION)
    ],
)
def test_models_of_torchvision_are_children(
    name: str, size: int, count: int, dims: set[int], gates: int
) -> None:
    child = child_from(f"torchvision:{name}:size={size}")
    assert child.digest == child.name == f"torchvision:{name}:size={size}"
    model = child(swish, input_shape=(1, 28, 28), classes=7)
    found = activations(model)
    assert len(found) == count
    assert {a.channel_dim for a in found} == dims
    assert sum(isinstance(m, GATES) for m in model.modules()) == gates
    take_a_step(model, torch.randn(2, 1, 28, 28), 7)


@pytest.mark.parametrize(
    ("name", "function"),
    [("densenet121", "relu(x)"), ("googlenet", "relu(x)"), ("efficientnet_b0", "x * sigmoid(x)"),
     ("shufflenet_v2_x0_5", "relu(x)"), ("convnext_tiny", "gelu")],
)  # fmt: skip
def test_a_models_own_function_as_the_candidate_gives_the_models_own_logits(
    name: str, function: str
) -> None:
    extra = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    torch.manual_seed(4)
    plain = import_torchvision().models.get_model(name, weights=None, num_classes=5, **extra)
    after = torch.rand(3)
    torch.manual_seed(4)
    child = child_from(f"torchvision:{name}")(
        partial(Activation, function), input_shape=(3, 48, 48), classes=5
    )
    assert torch.equal(torch.rand(3), after)
    x = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(child.eval()(x), plain.eval()(x), rtol=1e-3, atol=1e-4)


def images(side: int = 32, channels: int = 3) -> Any:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.integers(0, 80, (60, side, side, channels)) + 60 * y[:, None, None, None]
    return x.astype(np.uint8), y


def evaluator(child: str, **options: Any) -> Evaluator:
    recipe = Recipe(steps=2, batch_size=4, lr=0.01)
    return Evaluator(make_dataset("pictures", images()), child_from(child), recipe, **options)


def test_every_function_starts_from_the_same_weights() -> None:
    evaluate = evaluator("torchvision:densenet121")
    weights = []
    for expression in ("relu(x)", "mul(x, sigmoid(scale(x)))"):
        torch.manual_seed(5)
        model = evaluate.build(expression)
        weights.append(
            [p for n, p in model.state_dict().items() if "beta" not in n] + [torch.rand(2)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "convnext_tiny"])
def test_a_child_of_torchvision_is_evaluated_with_generated_kernels(name: str) -> None:
    outcomes = []
    for kernels in ("generated", "eager"):
        evaluate = pickle.loads(pickle.dumps(evaluator(f"torchvision:{name}", kernels=kernels)))
        outcomes.append(evaluate(Trial(1, "search", "mul(x, sigmoid(scale(x)))", "p", 0)))
        assert outcomes[-1].status == "ok", outcomes[-1].reason
    (_, one), (_, two) = (outcome.curve[0] for outcome in outcomes)
    assert one == pytest.approx(two, rel=1e-3)


def test_search_and_reevaluation_take_the_names(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": images(16), "steps": 1, "executor": "inline"}
    child = "torchvision:shufflenet_v2_x0_5: size=32"
    run = actsearch.search(tmp_path / "run", space="tiny", strategy="random", budget=1,
                           child=child, batch_size=4, **settings)  # fmt: skip
    table = actsearch.reevaluate(
        run, child="torchvision:squeezenet1_1:size=32", top=1, seeds=1, **settings
    )
    assert len(table)


def test_images_are_resized_and_grey_ones_repeated() -> None:
    model = child_from("torchvision:squeezenet1_1:size=40")(
        swish, input_shape=(1, 20, 24), classes=3
    ).eval()
    x = torch.randn(2, 1, 20, 24)
    y = F.interpolate(x, (40, 40), mode="bilinear").expand(-1, 3, -1, -1)
    torch.testing.assert_close(model(x), model.model(y))  # type: ignore[operator]


def test_a_function_of_the_width_is_enough_where_channels_are_in_dimension_1() -> None:
    def make(width: int) -> nn.Module:
        return Activation(SWISH, width)

    model = child_from("torchvision:squeezenet1_1")(make, input_shape=(3, 32, 32), classes=3)
    assert len(activations(model)) == 26
    with pytest.raises(ValueError, match="make_activation has to take channel_dim"):
        child_from("torchvision:swin_t")(make, input_shape=(3, 32, 32), classes=3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("torchvision:mobilenet_v22", "did you mean mobilenet_v2"),
        ("torchvision", "It has .* that classify"),
        ("torchvision:resnet18:width=3", "unknown option of torchvision:resnet18 'width'.*size"),
        ("torchvision:resnet18:size=0", "1 or more"),
        ("torchvison:resnet18", "Known: .*torchvision:NAME"),
    ],
)
def test_a_name_that_cannot_be_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        child_from(text)


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("inception_v3", (3, 32, 32), "inception_v3 cannot take images of 32 x 32 .*:size=75"),
        ("alexnet", (1, 28, 28), "use torchvision:alexnet:size=64"),
        ("vit_b_16", (3, 20, 20), ":size=32"),
        ("vit_b_32", (3, 32, 40), ":size=64"),
        ("resnet18", (8,), "images"),
        ("resnet18", (4, 32, 32), "grey or of 3 channels"),
    ],
)
def test_images_that_a_model_cannot_take_get_a_sentence(
    name: str, shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        child_from(f"torchvision:{name}")(swish, input_shape=shape, classes=3)


class OwnZoo:
    """Of three models that cannot be children."""

    def names(self) -> list[str]:
        return ["straight", "features", "pair"]

    def model(self, name: str, classes: int, side: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(3, classes, 1), nn.Tanh()]
        if name == "straight":
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(*layers, nn.ReLU(), Pair() if name == "pair" else nn.Identity())

    def activations(self) -> tuple[Match, ...]:
        return ACTIVATIONS


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("straight", "own:straight calls none of the activations"),
        ("features", r"own:features returns \(2, 5, 8, 8\) for 2 images and 5 classes"),
        ("pair", "own:pair returns tuple"),
    ],
)
def test_a_model_that_is_no_child_gets_a_sentence(
    name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ZOOS, "own", OwnZoo())
    with pytest.raises(ValueError, match=sentence):
        child_from(f"own:{name}")(swish, input_shape=(3, 8, 8), classes=5)


def test_an_error_of_the_activation_is_not_taken_for_one_of_the_images() -> None:
    def make(width: int) -> nn.Module:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        child_from("torchvision:squeezenet1_1")(make, input_shape=(3, 32, 32), classes=5)


def test_without_timm_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match="pip install timm"):
        child_from("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "side", "dims"),
    [("convnext_atto", 32, {1}), ("vit_tiny_patch16_224", 32, {-1}), ("mixer_s32_224", 32, {-1}),
     ("ghostnet_050", 32, {1})],
)  # fmt: skip
def test_models_of_timm_are_children(name: str, side: int, dims: set[int]) -> None:
    import_torchvision()
    pytest.importorskip("timm", reason="timm is not installed")
    model = child_from(f"timm:{name}")(swish, input_shape=(3, side, side), classes=7)
    assert {a.channel_dim for a in activations(model)} == dims
    take_a_step(model, torch.randn(2, 3, side, side), 7)


GIANT = 150e6  # parameters; these are run without memory


@pytest.mark.slow
def test_every_model_of_torchvision_is_a_child() -> None:
    failures: dict[str, str] = {}
    for name in ZOOS["torchvision"].names():
        child = ZooModel("torchvision", name)
        side = next(side for side in SIDES if child._takes((side, side)))
        plain = child._without_memory(side)
        device = "meta" if sum(p.numel() for p in plain.parameters()) > GIANT else "cpu"
        x = torch.randn(2, 3, side, side, device=device)
        try:
            if device == "meta":
                model = plain.to("meta")
                put_activations(model, lambda n, d: swish(n, channel_dim=d), x, match=ACTIVATIONS)
                take_a_step(model, x, 2)
            else:
                model = child(swish, input_shape=(3, side, side), classes=5)
                take_a_step(model, x, 5)
            before = Counter(type(m) for m in plain.modules() if isinstance(m, GATES))
            assert Counter(type(m) for m in model.modules() if isinstance(m, GATES)) == before
        except Exception as error:
            failures[name] = f"{side} px: {type(error).__name__}: {error}"
    assert failures == {}


def test_an_outcome_says_which_package_its_network_came_from() -> None:
    said = evaluator("torchvision:squeezenet1_1")(Trial(0, "search", "relu(x)", "", 0)).versions
    assert said["torchvision"] == import_torchvision().__version__
