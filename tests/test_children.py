"""Data sets, child models, and the training of one child."""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from actsearch.child_models import device
from actsearch.child_models.data import classification, examples, image_folder
from actsearch.child_models.data.classification import LOSSES, Classification
from actsearch.child_models.data.data import DataError, Diverged
from actsearch.child_models.data.image_folder import StreamedImages
from actsearch.child_models.data.labelled import Dataset, make_dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.data.tasks import TASKS
from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks import convolution
from actsearch.child_models.networks.children import CHILDREN
from actsearch.child_models.networks.resnet import subsampled
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.child_models.training import beside_relu, looks, state
from actsearch.child_models.training.beside_relu import PAIRS, STEPS_PER_PAIR, BesideReLU, cost
from actsearch.child_models.training.loop import train
from actsearch.child_models.training.optimisers import OPTIMISERS, _weight_decay_groups
from actsearch.child_models.training.state import Training
from actsearch.results.benchmarks import load_benchmark
from actsearch.results.records import Cause, DeviceLostError, NoDeviceError, Trial
from actsearch.search_space.activation import Activation, MakeActivation
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse

from .conftest import LIMIT

CPU = torch.device("cpu")
Arrays = tuple[np.ndarray, np.ndarray]
RECIPE = Recipe(steps=12, batch_size=16, lr=0.05, schedule="cosine")


def images(n: int = 60, side: int = 12, channels: int = 3, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.integers(0, 80, (n, side, side, channels)) + 60 * y[:, None, None, None]
    return x.astype(np.uint8), y


@pytest.fixture(scope="module")
def pictures() -> Dataset:
    return make_dataset("pictures", images(), augment="crop_flip")


def trial(expression: str = "relu(x)", seed: int = 0) -> Trial:
    return Trial(1, "search", expression, "p", seed)


# -- models


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018),
     ("resnet110", 1_727_962), ("preact_resnet", 1_703_258), ("wide_resnet", 36_479_194),
     ("densenet", 769_162)],
)  # fmt: skip
def test_networks_have_the_published_number_of_parameters(name: str, count: int) -> None:
    model = child_from(name)(lambda c: nn.ReLU(), input_shape=(3, 32, 32), classes=10)
    assert sum(p.numel() for p in model.parameters()) == count


LARGE = {"preact_resnet": "preact_resnet:depth=20", "wide_resnet": "wide_resnet:depth=10,width=2",
         "densenet": "densenet:depth=10"}  # fmt: skip


IMAGES = [LARGE.get(n, n) for n in CHILDREN if n not in ("resnet110", "transformer", "gpt")]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_every_child_maps_images_to_classes_and_asks_for_widths(
    name: str, shape: tuple[int, ...]
) -> None:
    widths: list[int] = []

    def make(channels: int, channel_dim: int = 1, **_: Any) -> nn.Module:
        widths.append(channels)
        return Activation("beta * x", channels, channel_dim=channel_dim)

    model = child_from(name)(make, input_shape=shape, classes=7)
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert widths
    child = child_from(name)
    depth = child.options.get("depth") or getattr(child.build, "keywords", {}).get("depth")
    if depth:  # a Wide ResNet counts its three projections
        assert len(widths) == depth - (3 if name.startswith("wide") else 1)


def test_width_and_size_are_options() -> None:
    model = child_from("resnet8:width=4,size=8")(
        lambda c: nn.ReLU(), input_shape=(3, 32, 32), classes=10
    )
    assert model.conv.out_channels == 4  # type: ignore[union-attr]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert (
        child_from("resnet:depth=26")(lambda c: nn.ReLU(), input_shape=(3, 32, 32), classes=10)
        is not None
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("resnet9", "unknown child 'resnet9'; did you mean"),
        ("resnet8:wdith=4", "did you mean 'width'"),
        ("resnet8:width=x", "whole number"),
        ("resnet8:width=0", "1 or more"),
    ],
)
def test_a_child_that_cannot_be_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        child_from(text)


def test_labels_that_are_no_classes_are_said_by_what_is_wrong_with_them() -> None:
    x = np.zeros((40, 3), np.float32)
    with pytest.raises(DataError, match="the smallest label is -1; number the classes from 0"):
        make_dataset("d", (x, np.arange(40) % 3 - 1))
    with pytest.raises(DataError, match="labels must be whole numbers from 0, not float64"):
        make_dataset("d", (x, np.ones(40)))


@pytest.mark.parametrize("name", LARGE)
def test_large_networks_take_a_step(name: str) -> None:
    data = make_dataset("pictures", images(side=32), augment="crop_flip")
    evaluate = Evaluator(data, child_from(name), Recipe(steps=1, batch_size=2, lr=0.01))
    outcome = evaluate(trial("mul(x, sigmoid(scale(x)))"))
    assert outcome.status == "ok", outcome.reason


@pytest.mark.parametrize(
    ("text", "layers"),
    [("preact_resnet:depth=163", r"9n\+2"), ("wide_resnet:depth=27", r"6n\+4"),
     ("densenet:depth=99", r"6n\+4")],
)  # fmt: skip
def test_a_depth_that_cannot_be_gets_a_sentence(text: str, layers: str) -> None:
    with pytest.raises(ValueError, match=layers):
        child_from(text)(lambda c: nn.ReLU(), input_shape=(3, 32, 32), classes=10)


def test_what_is_no_child_and_no_image_gets_a_way_out() -> None:
    with pytest.raises(ValueError, match="the child is a int; give a name, a function"):
        child_from(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x\[:, None\]"):
        child_from("resnet8")(lambda c: nn.ReLU(), input_shape=(8, 8), classes=3)


def test_a_resnet_has_6n_plus_2_layers() -> None:
    with pytest.raises(ValueError, match=r"6n\+2 layers"):
        child_from("resnet:depth=21")(lambda c: nn.ReLU(), input_shape=(3, 32, 32), classes=10)


def test_convolutions_of_a_densenet_start_as_its_authors_have_them() -> None:
    """models/densenet.lua: n = v.kW*v.kH*v.nOutputPlane; v.weight:normal(0,math.sqrt(2/n))"""
    torch.manual_seed(0)
    model = child_from("densenet:depth=40")(lambda c: nn.ReLU(), input_shape=(3, 8, 8), classes=10)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {m.kernel_size for m in convolutions} == {(1, 1), (3, 3)}
    for m in convolutions:
        n = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
        error = 1 / math.sqrt(2 * m.weight.numel())  # of a deviation, as a share of it
        assert m.weight.std().item() == pytest.approx(math.sqrt(2 / n), rel=4.5 * error)


def test_a_network_that_changed_is_another_child_than_before() -> None:
    """Runs of DenseNet before fan-out had the name alone."""
    changed, same = child_from("densenet:depth=10"), child_from("resnet8:width=4")
    assert changed.digest != changed.name == "densenet:depth=10"
    assert same.digest == same.name


def test_the_shortcut_keeps_every_second_pixel_and_fills_new_channels_with_zeros() -> None:
    x = torch.randn(2, 16, 8, 8)
    y = subsampled(x, stride=2, new_channels=16)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()


def trunk(expression: str) -> nn.Module:
    torch.manual_seed(0)
    child = child_from("trunk_resnet:width=8,size=8")
    make: Any = partial(Activation, expression)
    return child(make, input_shape=(3, 32, 32), classes=10)


def test_a_trunk_resnet_has_the_parameters_of_a_calculation_by_hand() -> None:
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    normalisations = 2 * (16 + 16 + 16 + 16 + 16 + 32 + 32 + 32 + 32 + 64 + 64 + 64)
    model = child_from("trunk_resnet")(lambda c: nn.ReLU(), input_shape=(3, 32, 32), classes=10)
    count = sum(p.numel() for p in model.parameters())
    assert count == convolutions + normalisations + 64 * 10 + 10


def test_the_scale_of_a_function_cancels_in_a_trunk_resnet() -> None:
    x = torch.randn(16, 3, 32, 32)
    one, many = trunk("relu(x)")(x), trunk("30 * relu(x)")(x)
    assert torch.allclose(one, many, atol=1e-4)
    assert one.std() > 0.1


def test_a_convnext_computes_what_torchvisions_does_with_the_same_weights() -> None:
    made = import_torchvision().models.convnext
    stages = [made.CNBlockConfig(a, b, 2) for a, b in ((8, 16), (16, 32), (32, None))]
    theirs = made.ConvNeXt(stages, layer_scale=0.5, num_classes=10).eval()
    child = child_from("convnext:width=8,blocks=2")
    ours = child(lambda *_, **__: nn.GELU(), input_shape=(3, 32, 32), classes=10).eval()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(torch.randn_like(mine) * 0.1)
            other.copy_(mine.reshape(other.shape))
        x = torch.randn(4, 3, 32, 32)
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
        assert ours(x).std() > 0.01


def test_a_convnext_says_which_images_are_too_small_for_it() -> None:
    def refused(child: str, shape: tuple[int, ...]) -> str:
        with pytest.raises(ValueError, match="takes images") as e:
            child_from(child)(lambda *_, **__: nn.ReLU(), input_shape=shape, classes=10)
        return str(e.value)

    found = refused("convnext", (3, 8, 8))
    assert "16 pixels a side or more, not 8; give patch=2, or size=16" in found
    for child in ("convnext", "convnext:patch=1"):  # no patch is small enough
        found = refused(child, (3, 3, 3))
        assert "patch" not in found.partition("; give ")[2]
        assert "size=" in found.partition("; give ")[2]
    assert "mlp" in refused("convnext", (5,))


def test_what_comes_to_a_candidate_in_a_new_convnext_has_a_standard_deviation_of_1() -> None:
    """With N(0, 0.02) it would be a tenth of that, and the ranking one of f(0)."""
    torch.manual_seed(0)
    seen: list[float] = []

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.std().item())
            return x

    child = child_from("convnext")
    model = child(lambda *_, **__: Watch(), input_shape=(3, 32, 32), classes=10)
    model(torch.randn(8, 3, 32, 32))
    assert seen == pytest.approx([1.0] * 3, abs=0.25)


@pytest.mark.parametrize("expression", ["x**2", "x * abs(x)", "x**3"])
def test_steep_functions_learn_where_the_trunk_is_linear_and_not_where_they_act_on_it(
    expression: str,
) -> None:
    recipe = Recipe(steps=40, batch_size=32, lr=0.1, schedule="cosine")
    data = make_dataset("pictures", images(300))
    key = str(parse(expression))
    linear, other = (
        Evaluator(data, child_from(f"{name}:width=8,size=8"), recipe)(trial(key)).val_score or 0.0
        for name in ("trunk_resnet", "resnet8")
    )
    assert linear > 0.6  # three classes
    assert other == 0.0  # not finite


# -- data


def test_the_bundled_digits_are_split_and_always_the_same() -> None:
    one, two = load("mnist5k"), load("mnist5k")
    assert one.digest == two.digest
    assert one.input_shape == (1, 28, 28)
    assert [len(s) for s in (one.x_train, one.x_val, one.x_test)] == [3000, 1000, 1000]
    assert set(one.y_val) == set(range(10))
    rows = {bytes(r) for s in (one.x_train, one.x_val, one.x_test) for r in s}
    assert len(rows) > 4990  # the splits share no image


def test_splits_are_disjoint_and_cover_the_data() -> None:
    x = np.arange(100, dtype=np.float32)[:, None]
    data = make_dataset("d", (x, np.arange(100) % 2))
    parts = [set(s[:, 0]) for s in (data.x_train, data.x_val, data.x_test)]
    assert sum(map(len, parts)) == 100
    assert set.union(*parts) == set(range(100))


def test_inputs_are_standardised_by_the_training_split() -> None:
    data = make_dataset("d", images(300))
    device = Classification(data, torch.device("cpu"))
    x = device.examples.standardise(device.splits["train"][0])
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (np.zeros((5, 3), np.float32), np.zeros(4, int), "do not fit"),
        (np.zeros((20, 3), np.float32), np.full(20, 0.5), "whole numbers"),
        (np.full((20, 3), np.nan, np.float32), np.arange(20) % 2, "NaN"),
        (np.array([["a"] * 3] * 20), np.arange(20) % 2, "uint8 images or floats"),
        (np.zeros((20, 3), np.complex64), np.arange(20) % 2, "uint8 images or floats"),
        (np.zeros((20, 3), np.float32), np.zeros(20, int), "only one class"),
        (np.zeros((3, 3), np.float32), np.arange(3), "too few"),
        (np.zeros((20, 6, 6, 3), np.float32), np.arange(20) % 2, "transpose"),
        (np.zeros((0, 3), np.float32), np.zeros(0, int), "hold nothing"),
    ],
)
def test_data_that_cannot_be_used_gets_a_sentence(x: Any, y: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        make_dataset("d", (x, y))


def test_an_npz_file_is_a_data_set(tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = images(60), images(20, seed=1)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    data = load(str(path))
    assert data.input_shape == (3, 12, 12)
    assert len(data.x_train) + len(data.x_val) == 60
    assert np.array_equal(data.x_test, x_test.transpose(0, 3, 1, 2))
    assert data.augment == "crop_flip"


def test_x_and_y_of_an_npz_file_are_what_they_are_as_arrays(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    x, y = chance.normal(size=(50, 3)), chance.normal(size=50)
    tables = {"a": {"x": x, "y": y}, "b": {"x_train": x, "y_train": y, "x": y, "y": y}}
    expected = TASKS["regression"].from_arrays("table", (x, y)).digest
    for name, arrays in tables.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert load(f"{tmp_path}/{name}.npz", task="regression").digest == expected
    np.savez(tmp_path / "c.npz", x=x, target=y)
    with pytest.raises(DataError, match="it holds x, target; name its arrays x y, or x_train"):
        load(f"{tmp_path}/c.npz")


def test_a_folder_of_images_is_a_data_set(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        for i, (image, label) in enumerate(zip(*images(30, seed=seed), strict=True)):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    data = load(str(tmp_path))
    assert data.classes == 3
    assert data.input_shape == (3, 12, 12)
    assert load(str(tmp_path), image_size=8).input_shape == (3, 8, 8)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "train/class0/odd.png")
    with pytest.raises(DataError, match="--image-size"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar10", "no cifar10 under .*Use --download"),
        ("svhn", "no svhn under"),
        ("none.npz", "no file none.npz"),
        ("no/such/folder", "no file or folder"),
        ("nope.npy", "no file or folder nope.npy; .*, text .a .txt .* or an .npy file of token"),
        ("nope.npy:context=8", "no file or folder nope.npy; "),
        (__file__, "test_children.py cannot be a data set; --dataset takes a name, an .npz"),
    ],
)
def test_data_that_cannot_be_had_gets_a_way_out(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        load(name, root=tmp_path)


def test_a_damaged_file_and_a_pickle_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    for content in (b"PK nonsense", b"text", b""):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"no readable \.npz: no archive"):
            load(str(broken))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, x_train=np.array([{}], dtype=object), y_train=np.zeros(1, int))
    with pytest.raises(DataError, match="no readable"):
        load(str(pickled))


def test_real_cifar10_trains_above_chance() -> None:
    folder = os.environ.get("ACTSEARCH_TEST_DATA")
    if folder is None or not Path(folder, "cifar10_6k.npz").is_file():
        pytest.skip("ACTSEARCH_TEST_DATA names no folder with cifar10_6k.npz")
    data = load(str(Path(folder, "cifar10_6k.npz")))
    recipe = Recipe(steps=60, batch_size=64, lr=0.1, schedule="cosine")
    evaluate = Evaluator(data, child_from("resnet8:width=8,size=16"), recipe, test=True)
    outcome = evaluate(replace(trial("mul(x, sigmoid(scale(x)))"), kind="reevaluate"))
    assert outcome.status == "ok"
    assert outcome.test_score is not None
    assert outcome.test_score > 0.2


# Accuracies of the one-unit table by the vectors of the processor that trained: docs/one_unit.md.
# Of min(x, sinc(x)) the backward pass keeps a slope, whose layout decides how torch sums.
TABLE = [
    ("relu(x)", {"AVX2": 0.3882, "AVX512": 0.3884}),
    ("x * sigmoid(beta * x)", {"AVX2": 0.4016, "AVX512": 0.4016}),
    ("min(x, sinc(x))", {"AVX2": 0.4152}),
]


@pytest.fixture(scope="module")
def cifar10() -> Dataset:
    """All of CIFAR-10, as the table's trainings had it."""
    folder = os.environ.get("ACTSEARCH_TEST_DATA")
    if folder is None or not Path(folder, "cifar10_jpeg.npz").is_file():
        pytest.skip("ACTSEARCH_TEST_DATA names no folder with cifar10_jpeg.npz")
    pack = np.load(Path(folder, "cifar10_jpeg.npz"))
    ends, coded = pack["offset"], pack["jpeg"].tobytes()
    parts = (coded[a:b] for a, b in pairwise(ends))
    images = np.stack([np.asarray(Image.open(io.BytesIO(part)).convert("RGB")) for part in parts])
    train, test = ((images[m], pack["label"][m]) for m in (~pack["is_test"], pack["is_test"]))
    return make_dataset("cifar10", train, test, augment="crop_flip")


@pytest.mark.slow
@pytest.mark.parametrize(("formula", "accuracies"), TABLE, ids=[row[0] for row in TABLE])
def test_a_row_of_the_one_unit_table_trains_again_to_its_accuracy(
    formula: str, accuracies: dict[str, float], cifar10: Dataset
) -> None:
    table = load_benchmark("one-unit")
    provenance = table.attrs["provenance"]
    vectors, version = torch.backends.cpu.get_cpu_capability(), provenance["versions"]["torch"]
    if torch.__version__ != version or vectors not in accuracies:
        pytest.skip(f"the row was trained by torch {version} with {' or '.join(accuracies)}")
    [stored] = table.loc[table["formula"] == formula, "accuracy"]
    assert stored in accuracies.values()
    recipe = Recipe(**provenance["protocol"]["recipe"])
    evaluate = Evaluator(cifar10, child_from(provenance["protocol"]["child"]), recipe)
    assert evaluate.protocol_hash == provenance["protocol hash"]
    outcome = evaluate(trial(str(parse(formula))))
    # Two of 5,000 images; batch normalisation by loops of our own moved ReLU by twelve.
    assert outcome.val_score == pytest.approx(accuracies[vectors], abs=4.5e-4)


# -- training


@pytest.mark.parametrize("child", ["resnet8:width=4", "cnn:width=4", "mlp"])
def test_the_same_seed_gives_the_same_outcome_in_any_process(child: str, pictures: Dataset) -> None:
    evaluate = Evaluator(pictures, child_from(child), RECIPE)
    one = evaluate(trial(seed=3))
    assert one.status == "ok", one.reason
    for other in (evaluate, pickle.loads(pickle.dumps(evaluate))):
        again = other(trial(seed=3))
        assert (again.curve, again.val_score) == (one.curve, one.val_score)
    assert evaluate(trial(seed=4)).curve != one.curve


@pytest.mark.parametrize("child", ["resnet8:width=4", "cnn:width=4", "mlp"])
def test_generated_kernels_train_a_child_as_eager_mode_does(child: str, pictures: Dataset) -> None:
    swish = trial("mul(x, sigmoid(scale(x)))")
    curves = []
    for kernels in ("generated", "eager"):  # `generated` raises where there is no kernel
        evaluate = Evaluator(pictures, child_from(child), RECIPE, kernels=kernels)
        activations = [m for m in evaluate.build("relu(x)").modules() if isinstance(m, Activation)]
        assert {a.kernels for a in activations} == {kernels}
        outcome = evaluate(swish)
        assert outcome.status == "ok", outcome.reason
        curves.append([loss for _, loss in outcome.curve[:5]])
    np.testing.assert_allclose(*curves, rtol=1e-3)


def test_the_kinds_of_kernels_that_a_child_uses_are_known_before_it_trains(
    pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def users_own(make_activation: Any, input_shape: Any, classes: int) -> nn.Module:
        layers = [nn.Conv2d(3, 4, 3), make_activation(4), nn.Flatten(), nn.LazyLinear(classes)]
        return nn.Sequential(*layers)

    def kinds(child: Any, **options: Any) -> set[str]:
        found = Evaluator(pictures, child, RECIPE, **options).kernel_kinds()
        assert {element for _, element, _ in found} <= {"float32"}
        return {layout for _, _, layout in found}

    assert kinds(child_from("resnet8:width=4")) == kinds(child_from("mlp")) == {"flat", "columns"}
    assert kinds(users(users_own)) == {"flat", "rows"}
    assert kinds(child_from("mlp"), kernels="eager") == set()
    assert kinds(users(lambda make_activation: nn.Linear(1, 1))) == set()  # fails
    recipe = Recipe(steps=1, batch_size=2, precision="bf16")
    found = Evaluator(pictures, child_from("resnet8:width=4"), recipe).kernel_kinds()
    assert {element for _, element, _ in found} == {"bfloat16"}
    assert {device for device, _, _ in found} == {"cpu"}
    monkeypatch.setattr(
        "actsearch.child_models.evaluate.usual_device", lambda: torch.device("cuda")
    )
    found = Evaluator(pictures, child_from("mlp"), recipe).kernel_kinds()
    assert found == {("cuda", "bfloat16", "flat"), ("cuda", "bfloat16", "columns")}
    found = Evaluator(pictures, child_from("resnet8:width=4"), recipe).kernel_kinds()
    both = {("cuda", "bfloat16", layout) for layout in ("flat", "columns", "normalised")}
    assert found == both  # of 4, 8 and 16 channels
    found = Evaluator(pictures, child_from("resnet8"), recipe).kernel_kinds()
    assert found == {("cuda", "bfloat16", "normalised")}


@pytest.mark.parametrize("kernels", ["generated", "eager"])
def test_bf16_computes_in_bfloat16_and_trains_as_well(kernels: str, pictures: Dataset) -> None:
    seen: set[torch.dtype] = set()

    def watched(make_activation: Any, input_shape: Any, classes: int) -> nn.Module:
        def make(channels: int) -> nn.Module:
            activation = make_activation(channels)
            activation.register_forward_pre_hook(lambda module, x: seen.add(x[0].dtype))
            return activation

        return child_from("resnet8:width=4")(make, input_shape=input_shape, classes=classes)

    outcomes: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        seen.clear()
        recipe = Recipe(steps=40, batch_size=16, lr=0.05, precision=precision)
        evaluate = Evaluator(pictures, users(watched), recipe, kernels=kernels)
        outcomes[precision] = evaluate(trial("mul(x, sigmoid(scale(x)))"))
        assert outcomes[precision].status == "ok", outcomes[precision].reason
        assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
        model = evaluate.build("scale(x)")
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    (_, one), (_, two) = (outcomes[p].curve[0] for p in ("fp32", "bf16"))
    assert one != two
    assert two == pytest.approx(one, rel=0.05)
    assert outcomes["bf16"].val_score > 0.6


def test_our_convolutional_children_lie_channels_last_and_a_users_as_it_was_written(
    pictures: Dataset,
) -> None:
    layouts: dict[str, set[bool]] = {}

    def watched(name: str, width: int) -> nn.Module:
        activation = Activation("relu(x)", width)
        activation.register_forward_pre_hook(
            lambda module, inputs: layouts.setdefault(name, set()).add(inputs[0].is_contiguous())
        )
        return activation

    def ours(make_activation: Any, input_shape: Any, classes: int) -> nn.Module:
        return child_from("resnet8:width=4")(
            lambda c: watched("ours", c), input_shape=input_shape, classes=classes
        )

    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(len(x), -1)  # raises where channels are last

    def users_own(make_activation: Any, input_shape: Any, classes: int) -> nn.Module:
        side = input_shape[1] - 2
        layers = nn.Conv2d(3, 4, 3), watched("theirs", 4), Flat(), nn.Linear(4 * side**2, classes)
        return nn.Sequential(*layers)

    for body in (ours, users_own):
        assert Evaluator(pictures, users(body), RECIPE)(trial()).status == "ok"
    assert layouts == {"ours": {False}, "theirs": {True}}


def test_grey_images_train_the_same_after_their_data_was_pickled() -> None:
    x, y = images(channels=1, side=14)
    grey = make_dataset("grey", (x[..., 0], y), augment="crop")
    evaluate = Evaluator(grey, child_from("resnet8:width=8"), Recipe(steps=12, batch_size=32))
    one, two = evaluate(trial()), pickle.loads(pickle.dumps(evaluate))(trial())
    assert one.status == "ok"
    assert one.curve == two.curve


def test_every_function_starts_from_the_same_weights_and_sees_the_same_batches(
    pictures: Dataset,
) -> None:
    evaluate = Evaluator(pictures, child_from("resnet8:width=4"), RECIPE)
    weights = []
    for expression in ("relu(x)", "mul(x, sigmoid(scale(x)))"):
        torch.manual_seed(5)
        model = evaluate.build(expression)
        weights.append([p for n, p in model.named_parameters() if "beta" not in n])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    data = Classification(pictures, torch.device("cpu"))
    streams = [data.batches(Recipe(batch_size=8), seed=1) for _ in range(2)]
    for _ in range(12):
        (x, y), (u, v) = (next(s) for s in streams)
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_an_epoch_shows_every_example_once() -> None:
    x = np.arange(40, dtype=np.float32)[:, None]
    data = Classification(make_dataset("d", (x, np.arange(40) % 2)), torch.device("cpu"))
    count = len(data.splits["train"][0]) // 4
    stream = data.batches(Recipe(batch_size=4), seed=0)
    for _ in range(2):
        seen = torch.cat([next(stream)[0] for _ in range(count)])
        assert len(set(seen[:, 0].tolist())) == 4 * count


def test_crops_are_shifts_of_the_padded_image_and_flips_mirror_it() -> None:
    x = np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(30, 0)
    data = Classification(
        make_dataset("d", (x, np.arange(30) % 2), augment="crop_flip"), torch.device("cpu")
    )
    padded = np.pad(x[0, :, :, 0], 4)
    shifts = {padded[i : i + 8, j : j + 8].tobytes() for i in range(9) for j in range(9)}
    shifts |= {np.frombuffer(s, np.uint8).reshape(8, 8)[:, ::-1].tobytes() for s in shifts}
    index = torch.arange(20)
    batch = data.examples._augmented(index, torch.Generator().manual_seed(0))
    found = {image[0].numpy().tobytes() for image in batch}
    assert found <= shifts
    assert len(found) > 5


@pytest.mark.parametrize("augment", ["", "crop", "crop_flip"])
@pytest.mark.parametrize("block", [1, 4, 20])
def test_a_block_of_batches_moves_each_image_by_the_next_random_numbers(
    augment: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of six batches, in blocks that end with them; one batch a block on processors."""
    assert examples.BLOCKS == {"cpu": 1, "cuda": 20}
    monkeypatch.setitem(examples.BLOCKS, "cpu", block)
    x, y = images(85, 8)
    data = make_dataset("d", (x, y), augment=augment)
    padded = np.pad(data.x_train, ((0, 0), (0, 0), (4, 4), (4, 4)))
    generator = torch.Generator().manual_seed(7)
    stream = Classification(data, CPU).batches(Recipe(batch_size=10), 7)
    for _ in range(2):
        order = torch.randperm(len(data.x_train), generator=generator).numpy()[:60]
        for chosen in np.split(order, [*range(10 * block, 60, 10 * block)]):
            moves, mirrored = np.full((2, len(chosen)), 4), np.zeros(len(chosen), bool)
            if augment:
                moves = torch.randint(9, (2, len(chosen)), generator=generator).numpy()
            if augment == "crop_flip":
                mirrored = torch.rand(len(chosen), generator=generator).numpy() < 0.5
            moved = [
                padded[i, :, top : top + 8, left : left + 8][..., :: -1 if mirror else 1]
                for i, top, left, mirror in zip(chosen, *moves, mirrored, strict=True)
            ]
            scaled = np.array(moved, np.float32) - data.mean[:, None, None]
            scaled /= data.std[:, None, None]
            for part in np.split(np.arange(len(chosen)), len(chosen) // 10):
                images_, labels = next(stream)
                assert np.array_equal(images_.numpy(), scaled[part])
                assert np.array_equal(labels.numpy(), data.y_train[chosen[part]])


@pytest.mark.parametrize(("batches", "together"), [(0.5, 1), (2.5, 2), (100, 6)])
def test_a_block_takes_no_more_memory_than_it_may(
    batches: float, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(examples.BLOCKS, "cpu", 20)
    monkeypatch.setattr(examples, "BLOCK_BYTES", int(batches * 10 * 3 * 8 * 8 * 4))
    data = make_dataset("d", images(85, 8))
    stream = Classification(data, CPU).batches(Recipe(batch_size=10), 0)
    kept = [next(stream)[0] for _ in range(6)]
    assert 6 // len({x.untyped_storage().data_ptr() for x in kept}) == together


def test_images_that_lie_channels_last_from_the_start_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_dataset("d", images(85, 8), augment="crop_flip")
    usual = Classification(data, CPU)
    monkeypatch.setitem(examples.LAYOUTS, "cpu", torch.channels_last)
    other = Classification(data, CPU)
    streams = [task.batches(Recipe(batch_size=10), 7) for task in (usual, other)]
    for _ in range(3):
        (x, _), (again, _) = (next(stream) for stream in streams)
        assert torch.equal(x, again)
        assert x.is_contiguous()
        assert again.is_contiguous(memory_format=torch.channels_last)
    assert other.examples.standardise(other.splits["val"][0]).is_contiguous(
        memory_format=torch.channels_last
    )


def test_an_example_without_a_finite_answer_is_wrong_and_most_of_them_condemn_a_child() -> None:
    """Even where the first class, which argmax finds among NaN, is the right one."""

    def scored(unanswered: int) -> float:
        logits = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
        logits[:unanswered, 0] = math.nan
        batches = [(logits[:4], torch.zeros(4, dtype=torch.long)),
                   (logits[4:], torch.zeros(6, dtype=torch.long))]  # fmt: skip
        return classification.accuracy(nn.Identity(), batches, RECIPE, "val", lambda: None)

    assert [scored(n) for n in (0, 1, 5)] == [1.0, 0.9, 0.5]
    with pytest.raises(Diverged, match="logits not finite on the val split"):
        scored(6)


def users(body: Callable[[Callable[[int], nn.Module]], nn.Module]) -> Any:
    return child_from(body)


class Poison(nn.Module):
    """Adds NaN to the loss, to the gradient, or in evaluation only."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        if self.where == "loss" and self.training and self.calls == 4:
            return x + math.nan
        if self.where == "gradient" and self.training and self.calls == 4:
            return x + 0 * torch.sqrt(x * 0)  # finite, with the gradient 0 * inf
        if self.where == "evaluation" and not self.training:
            return x * math.nan
        return x


@pytest.mark.parametrize(
    ("where", "reason", "step", "why"),
    [
        ("loss", "loss nan at step 4", 4, (Cause.LOSS, "nan")),
        ("gradient", "gradient norm nan at step 4", 4, (Cause.GRADIENT_NORM, "nan")),
        (
            "evaluation",
            "logits not finite on the val split",
            RECIPE.steps,
            (Cause.LOGITS, "on the val split"),
        ),
    ],
)
def test_a_child_that_stops_being_finite_has_no_accuracy_but_a_reason_and_a_step(
    blobs: Arrays, where: str, reason: str, step: int, why: tuple[Cause, str]
) -> None:
    def child(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), make_activation(8), nn.Linear(8, 3), Poison(where))

    outcome = Evaluator(make_dataset("b", blobs), users(child), RECIPE, test=True)(trial())
    assert (outcome.status, outcome.reason, outcome.step) == ("diverged", reason, step)
    assert (outcome.cause, outcome.variant) == why
    assert outcome.val_score is outcome.test_score is None
    assert all(math.isfinite(loss) for _, loss in outcome.curve)


@pytest.mark.parametrize(
    ("error", "reason", "why"),
    [(ValueError("bad shape"), "ValueError: bad shape", (Cause.EXCEPTION, "ValueError")),
     (torch.OutOfMemoryError("11 GB"), "out of memory: 11 GB", (Cause.OUT_OF_MEMORY, ""))],
)  # fmt: skip
def test_a_child_that_raises_is_a_failed_outcome(
    blobs: Arrays, error: Exception, reason: str, why: tuple[Cause, str]
) -> None:
    def child(make_activation: Callable[[int], nn.Module]) -> nn.Module:
        raise error

    outcome = Evaluator(make_dataset("b", blobs), users(child), RECIPE)(trial())
    assert (outcome.status, outcome.reason) == ("failed", reason)
    assert (outcome.cause, outcome.variant) == why


@pytest.mark.parametrize(
    "words",
    ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"],
)
def test_a_full_gpu_is_known_by_whatever_says_so(words: str) -> None:
    error = RuntimeError(words)
    assert device.out_of_memory(error, torch.device("cuda"))
    assert not device.out_of_memory(error, torch.device("cpu"))
    assert not device.out_of_memory(RuntimeError("bad shape"), torch.device("cuda"))


def test_a_gpu_that_a_child_has_broken_is_no_childs_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(device: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    device.check_still_there(torch.device("cpu"), "IndexError: 7")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    device.check_still_there(torch.device("cuda"), "IndexError: 7")
    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    with pytest.raises(DeviceLostError, match="IndexError: 7, and the GPU cannot be used any more"):
        device.check_still_there(torch.device("cuda"), "IndexError: 7")
    monkeypatch.setattr(torch.cuda, "get_device_name", gone)
    with pytest.raises(NoDeviceError, match="CUDA_VISIBLE_DEVICES=''"):
        device.device_name(torch.device("cuda"))


def test_only_tf32_rounds_to_tf32_and_what_was_set_comes_back() -> None:
    flags: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [flag.allow_tf32 for flag in flags]
    for precision in ("fp32", "tf32", "bf16"):
        with device.precision(Recipe(precision=precision), torch.device("cuda")):
            assert [flag.allow_tf32 for flag in flags] == [precision == "tf32"] * 2
        assert [flag.allow_tf32 for flag in flags] == before


def test_an_outcome_is_read_without_torch(pictures: Dataset) -> None:
    """The queue reads outcomes, and would import torch for its version's class."""
    outcome = Evaluator(pictures, child_from("resnet8:width=4"), Recipe(steps=2))(trial())
    needed: set[str] = set()

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            needed.add(module)
            return super().find_class(module, name)

    assert Reader(io.BytesIO(pickle.dumps(outcome))).load() == outcome
    assert needed <= {"actsearch.results.records", "builtins", "copyreg"}


def test_neither_a_survey_nor_a_training_imports_torchs_compiler() -> None:
    """Which would take longer than all the rest of a worker's start."""
    script = f"""
import sys
from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.recipe import Recipe
from actsearch.child_models.networks.resnet import subsampled
from actsearch.child_models.networks.zoo import child_from
from actsearch.results.records import Trial
from actsearch.search_space.space import SPACES, everything
from actsearch.search_space.survey import survey
survey(everything(SPACES["tiny"]))
for optimiser in {sorted(OPTIMISERS)}:
    recipe = Recipe(steps=2, optimiser=optimiser)
    evaluate = Evaluator(load("mnist5k"), child_from("mlp"), recipe)
    assert evaluate(Trial(0, "search", "sin(x)", "", 0)).status == "ok"
assert not {{"torch._dynamo", "torch.fx.experimental.symbolic_shapes"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=LIMIT)


def test_training_leaves_the_users_randomness_and_threads_alone(pictures: Dataset) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    Evaluator(pictures, child_from("mlp"), RECIPE)(trial())
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1.0, 99: 1.0}),
        ("step", {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        ("cosine", {0: 1.0, 50: 0.5, 25: (1 + math.sqrt(0.5)) / 2}),
    ],
)
def test_learning_rates_fall_as_the_schedule_says(
    schedule: str, expected: dict[int, float]
) -> None:
    recipe = Recipe(steps=100, schedule=schedule)
    for step, factor in expected.items():
        assert recipe.lr_factor(step) == pytest.approx(factor)


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": math.nan}, {"schedule": "linear"}]
)
def test_a_recipe_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Recipe(**bad)


def test_a_step_takes_the_processors_time_not_the_clocks(pictures: Dataset) -> None:
    class Waiting(Classification):
        def batches(self, recipe: Recipe, seed: int) -> Any:
            for batch in super().batches(recipe, seed):
                time.sleep(0.2)  # as where other programs have the processor
                yield batch

    task = Waiting(pictures, torch.device("cpu"))
    model = child_from("mlp:width=4")(lambda c, **_: nn.ReLU(), **pictures.facts)
    assert train(Training(model, task, RECIPE, 0)).ms_per_step < 200


def test_a_step_takes_no_time_of_the_looks_between_steps(pictures: Dataset) -> None:
    class Busy:
        def due(self, step: int) -> bool:
            return step % 2 == 0

        def __call__(self, training: Training) -> None:
            begun = time.thread_time()
            while time.thread_time() < begun + 0.2:
                pass

    task = Classification(pictures, torch.device("cpu"))
    model = child_from("mlp:width=4")(lambda c, **_: nn.ReLU(), **pictures.facts)
    training = train(Training(model, task, RECIPE, 0), [Busy()])
    assert len(training.step_seconds) == RECIPE.steps
    assert sum(training.step_seconds) < 0.2


TIMED = replace(RECIPE, steps=STEPS_PER_PAIR * (PAIRS + 1))


@pytest.mark.parametrize("child", ["mlp:width=4", "resnet8:width=4"])
def test_a_child_that_is_timed_beside_relu_trains_as_without(child: str, pictures: Dataset) -> None:
    evaluate = Evaluator(pictures, child_from(child), TIMED)
    searched = evaluate(trial("sin(x)"))
    again = evaluate(replace(trial("sin(x)"), kind="rung"))
    assert (searched.curve, searched.val_score) == (again.curve, again.val_score)
    low, high = searched.details["cost"][1:]
    assert 0 < low <= searched.details["cost"][0] <= high
    assert again.details == {"kernels": "generated"}
    short = Evaluator(pictures, child_from(child), replace(TIMED, steps=TIMED.steps - 1))
    assert short(trial("sin(x)")).details == {"kernels": "generated"}


def ratios(
    monkeypatch: pytest.MonkeyPatch, relu: Callable[[int], float], child: Callable[[int, Any], Any]
) -> tuple[list[float], list[int]]:
    """What a BesideReLU notes whose step number i takes relu(i) seconds, beside a child whose own
    takes child(i, had), where `had` are the batches that ReLU has had so far; and these."""
    clock, had = [0.0], []

    def step(batch: Any) -> None:
        clock[0] += relu(batch)
        had.append(batch)

    monkeypatch.setattr(beside_relu.time, "thread_time", lambda: clock[0])
    monkeypatch.setattr(beside_relu, "_relu_step", lambda *_: step)
    look, training = BesideReLU(nn.ReLU, TIMED.steps), SimpleNamespace(ratios=[])
    for i in range(TIMED.steps):
        training.batch, training.took, training.step = i, child(i, had), i + 1
        if look.due(i + 1):
            look(training)  # type: ignore[arg-type]
    return training.ratios, had


def test_cost_is_a_ratio_of_neighbours_whatever_the_machine_does_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The processor is up to ten times slower in turns; the child takes 1.5 times ReLU's time."""
    slow = [1 + 9 * math.sin(i / 25) ** 2 for i in range(TIMED.steps + 1)]
    found, had = ratios(monkeypatch, lambda i: slow[i + 1], lambda i, had: 1.5 * slow[i])
    assert cost(found) == pytest.approx((1.5, 1.5, 1.5))
    assert len(had) == 1 + PAIRS


def test_the_interval_of_a_cost_leaves_out_the_least_and_the_greatest_of_nine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = iter([0.1, 5, 3, 4, 9, 2, 7, 6, 8])

    def seconds(i: int, had: list[int]) -> float:
        follows = len(had) > 1 and had[-1] == i - 1
        return next(given) if follows else 100.0

    found, _ = ratios(monkeypatch, lambda i: 1.0, seconds)
    assert cost(found) == (5, 2, 8)
    assert cost(found[:-1]) is None


def test_a_step_of_relu_that_fails_leaves_the_child_without_a_cost(
    monkeypatch: pytest.MonkeyPatch, pictures: Dataset
) -> None:
    evaluate = Evaluator(pictures, child_from("mlp:width=4"), TIMED)
    build = evaluate.build

    def once(expression: str) -> nn.Module:
        if expression == "relu(x)":
            raise RuntimeError("one model at a time")
        return build(expression)

    monkeypatch.setattr(evaluate, "build", once)
    outcome = evaluate(trial("sin(x)"))
    assert outcome.status == "ok"
    assert outcome.details == {"kernels": "generated"}


def test_betas_get_no_weight_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), Activation("beta * x", 3))
    decayed, free = _weight_decay_groups(model, Recipe())
    assert decayed["weight_decay"] == 1e-4
    assert free["weight_decay"] == 0.0
    assert [p.shape for p in free["params"]] == [(3,)]  # type: ignore[attr-defined]


def test_any_change_of_the_protocol_changes_its_hash(pictures: Dataset) -> None:
    base = Evaluator(pictures, child_from("mlp"), RECIPE)
    others = [
        Evaluator(pictures, child_from("cnn"), RECIPE),
        Evaluator(pictures, child_from("mlp:width=8"), RECIPE),
        Evaluator(pictures, child_from("mlp"), Recipe(steps=13)),
        Evaluator(pictures, child_from("mlp"), RECIPE, operators="paper"),
        Evaluator(make_dataset("pictures", images(seed=1)), child_from("mlp"), RECIPE),
    ]
    hashes = {e.protocol_hash for e in (base, *others)}
    assert len(hashes) == len(others) + 1
    assert Evaluator(pictures, child_from("mlp"), RECIPE).protocol_hash == base.protocol_hash


def test_published_schedules_change_where_their_papers_say() -> None:
    """He et al. 2016b: 0.01 for 400 steps, 0.1 until 32k, 0.01 until 48k, 0.001 until 64k.
    Zagoruyko and Komodakis 2016: a fifth at epochs 60, 120, 160 of 200."""
    resnet, wide = RECIPES["he2016b"], RECIPES["wide_resnet"]
    rates = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 0.001, 63_999: 0.001}
    for step, rate in rates.items():
        assert resnet.lr * resnet.lr_factor(step) == pytest.approx(rate)
    for epoch, rate in {0: 0.1, 59: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}.items():
        assert wide.lr * wide.lr_factor(epoch * 352) == pytest.approx(rate)


def test_the_transformers_rate_is_that_of_vaswani() -> None:
    recipe = RECIPES["transformer"]
    for step in (1, 100, 4_000, 50_000):
        published = 512**-0.5 * min(step**-0.5, step * 4_000**-1.5)
        assert recipe.lr * recipe.lr_factor(step - 1) == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_every_optimiser_and_loss_learns(pictures: Dataset, optimiser: str, loss: str) -> None:
    lr = 0.003 if optimiser.startswith("adam") else 0.05
    recipe = Recipe(
        steps=60, batch_size=32, lr=lr, schedule="constant", optimiser=optimiser, loss=loss,
        label_smoothing=0.1,
    )  # fmt: skip
    outcome = Evaluator(pictures, child_from("mlp"), recipe)(trial("relu(x)"))
    first, last = outcome.curve[0][1], outcome.curve[-1][1]
    assert last < 0.9 * first


def _three_steps(optimiser: str) -> list[float]:
    """Where x is from 3.0 after each of three steps down x**2, at a rate of 0.1."""
    recipe = Recipe(lr=0.1, optimiser=optimiser)
    x = torch.tensor([3.0], requires_grad=True)
    descent = OPTIMISERS[optimiser]([x], recipe)
    places: list[float] = []
    for _ in range(3):
        descent.zero_grad()
        (x**2).sum().backward()
        descent.step()
        places.append(x.item())
    return places


def test_optimisers_take_the_steps_of_their_papers() -> None:
    """By hand: momentum 0.9 (Sutskever et al. 2013); Adam, Algorithm 1 of Kingma and Ba 2015, with
    the decay rates of Vaswani et al. 2017 in the last."""
    sgd, nesterov = [], []
    for places, ahead in ((sgd, False), (nesterov, True)):
        x, velocity = 3.0, 0.0
        for _ in range(3):
            velocity = 0.9 * velocity + 2 * x
            x -= 0.1 * (2 * x + 0.9 * velocity if ahead else velocity)
            places.append(x)
    assert _three_steps("sgd") == pytest.approx(sgd)
    assert _three_steps("nesterov") == pytest.approx(nesterov)
    for name, second, tiny in (("adam", 0.999, 1e-8), ("adam-0.98", 0.98, 1e-9)):
        x, m, v, places = 3.0, 0.0, 0.0, []
        for t in (1, 2, 3):
            m, v = 0.9 * m + 0.1 * 2 * x, second * v + (1 - second) * (2 * x) ** 2
            x -= 0.1 * m / (1 - 0.9**t) / (math.sqrt(v / (1 - second**t)) + tiny)
            places.append(x)
        assert _three_steps(name) == pytest.approx(places)
    assert len({round(_three_steps(name)[2], 6) for name in OPTIMISERS}) == len(OPTIMISERS)


def test_adamw_decays_apart_from_its_gradient() -> None:
    """By hand: Algorithm 2 of Loshchilov and Hutter 2019, with 0.9 and 0.95."""
    x = torch.tensor([[3.0]], requires_grad=True)
    descent = OPTIMISERS["adamw"]([{"params": [x], "weight_decay": 0.5}], Recipe(lr=0.1))
    by_hand, m, v = 3.0, 0.0, 0.0
    for t in (1, 2, 3):
        m, v = 0.9 * m + 0.1 * 2 * by_hand, 0.95 * v + 0.05 * (2 * by_hand) ** 2
        by_hand -= 0.1 * (m / (1 - 0.9**t) / math.sqrt(v / (1 - 0.95**t)) + 0.5 * by_hand)
        descent.zero_grad()
        (x**2).sum().backward()
        descent.step()
        assert x.item() == pytest.approx(by_hand)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_softmax_loss_is_the_smoothed_cross_entropy(smoothing: float) -> None:
    logits, y = torch.tensor([[0.0, 1.0, -2.0]]), torch.tensor([1])
    total = math.log(1 + math.e + math.exp(-2))
    by_hand = total - (1 - smoothing) * 1.0 - smoothing * (0.0 + 1.0 - 2.0) / 3
    assert LOSSES["softmax"](logits, y, smoothing).item() == pytest.approx(by_hand)


def test_a_sigmoid_loss_is_the_mean_of_binary_cross_entropies() -> None:
    logits, y = torch.tensor([[0.0, 1.0, -2.0]]), torch.tensor([1])
    by_hand = (math.log(2) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 3
    assert LOSSES["sigmoid"](logits, y, 0.0).item() == pytest.approx(by_hand)


def test_batches_keep_the_datas_order_where_the_recipe_does_not_shuffle() -> None:
    x = np.arange(40, dtype=np.float32)[:, None]
    data = make_dataset("d", (x, np.arange(40) % 2))
    stream = Classification(data, torch.device("cpu")).batches(
        Recipe(batch_size=4, shuffle=False), seed=0
    )
    seen = torch.cat([next(stream)[0].flatten() for _ in range(7)])
    train = torch.tensor(data.x_train.flatten())
    assert torch.allclose(seen, (train[:28] - data.mean.item()) / data.std.item(), atol=1e-6)


def test_where_an_operators_beta_starts_and_its_safe_form_are_part_of_the_protocol(
    pictures: Dataset,
) -> None:
    def protocol(**rest: Any) -> str:
        extra = (Op("wave", 1, lambda x, beta: (beta * x).sin(), **rest),)
        return Evaluator(pictures, child_from("mlp"), RECIPE, extra=extra).protocol_hash

    def safe(x: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return (beta * x.clamp(-9.0, 9.0)).sin()

    assert protocol(beta=1.0) == protocol(beta=1.0)
    assert len({protocol(beta=1.0), protocol(beta=25.0), protocol(beta=1.0, guarded=safe)}) == 3


def test_a_recipes_new_fields_leave_older_protocols_as_they_were() -> None:
    assert list(Recipe().to_dict()) == [
        "steps", "batch_size", "lr", "momentum", "weight_decay", "schedule", "precision",
    ]  # fmt: skip
    assert Recipe(optimiser="adam").to_dict()["optimiser"] == "adam"


def test_an_inspection_tells_betas_and_preactivations(pictures: Dataset) -> None:
    evaluate = Evaluator(pictures, child_from("mlp"), RECIPE, inspect=True, track=5)
    again = Trial(1, "reevaluate", "mul(x, sigmoid(scale(x)))", "p", 0)
    details = evaluate(again).details
    model = evaluate.build("mul(x, sigmoid(scale(x)))")
    widths = sum(m.channels for m in model.modules() if isinstance(m, Activation))
    [betas] = details["betas"]
    assert len(betas) == widths
    assert all(0.5 < beta < 1.5 for beta in betas)
    assert any(beta != 1.0 for beta in betas)
    found = details["preactivations"]
    assert sum(found["counts"]) + found["below"] + found["above"] == widths * len(pictures.x_val)
    assert [step for step, *_ in details["track"]] == [0, 5, 10, 12]
    assert details["track"][0][2] == [1.0, 1.0]  # a beta each layer, before training
    assert all(0 <= score <= 1 for _, score, _ in details["track"])


def test_looking_at_a_training_does_not_change_it(pictures: Dataset) -> None:
    seen = Evaluator(pictures, child_from("cnn"), RECIPE, inspect=True, track=3)
    plain = Evaluator(pictures, child_from("cnn"), RECIPE)
    assert seen(trial("relu(x)")).curve == plain(trial("relu(x)")).curve
    assert seen.protocol_hash == plain.protocol_hash


def test_a_child_that_a_look_finds_diverged_has_its_step_and_its_curve(pictures: Dataset) -> None:
    class Tired(nn.Module):
        """Has no finite output in evaluation once it has trained for six steps."""

        def __init__(self, act: nn.Module) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(10), act)
            self.steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            y = self.layers(x)
            return y * float("nan") if self.steps >= 6 and not self.training else y

    def tired(make_activation: MakeActivation) -> nn.Module:
        model = Tired(make_activation(10))
        model(torch.zeros(1, *pictures.x_train.shape[1:]))
        model.steps = 0
        return model

    outcome = Evaluator(pictures, child_from(tired), RECIPE, track=3)(trial("relu(x)"))
    assert (outcome.status, outcome.step) == ("diverged", 6)
    assert [step for step, _ in outcome.curve] == [1, 2, 3, 4, 5, 6]


def test_a_child_is_heard_of_while_it_is_scored(pictures: Dataset) -> None:
    beats: list[int] = []
    again = Trial(1, "reevaluate", "relu(x)", "p", 0)
    Evaluator(pictures, child_from("mlp"), RECIPE, test=True, inspect=True)(again, beats.append)
    assert beats == [*range(1, RECIPE.steps + 1), *[RECIPE.steps] * 3]  # val, test, inspection


# -- folders that do not fit in memory


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StreamedImages:
    monkeypatch.setattr(image_folder, "IN_MEMORY", 0)
    for split, seed, count in (("train", 0, 60), ("val", 1, 21)):
        for i, (image, label) in enumerate(zip(*images(count, seed=seed), strict=True)):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[: 12 - i % 3]).save(folder / f"{i}.png")
    found = load(str(tmp_path), image_size=10)
    assert isinstance(found, StreamedImages)
    return found


def test_a_large_folder_is_read_while_training_and_learned_from(streamed: StreamedImages) -> None:
    assert [len(streamed.splits[s][0]) for s in ("train", "val", "test")] == [54, 6, 21]
    recipe = Recipe(steps=40, batch_size=16, lr=0.05, schedule="cosine")
    evaluate = Evaluator(streamed, child_from("resnet8:width=4"), recipe, test=True)
    outcome = evaluate(replace(trial(), kind="reevaluate"))
    assert outcome.status == "ok", outcome.reason
    assert outcome.test_score is not None
    assert outcome.test_score > 0.5  # of three classes


def test_what_is_read_while_training_depends_on_the_seed_alone(streamed: StreamedImages) -> None:
    task = streamed.on(torch.device("cpu"))
    streams = [task.batches(Recipe(batch_size=20), seed) for seed in (3, 3, 4)]
    for _ in range(5):  # beyond an epoch
        (x, y), (again, labels), (other, _) = (next(stream) for stream in streams)
        assert torch.equal(x, again)
        assert torch.equal(y, labels)
        assert not torch.equal(x, other)
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_an_epoch_reads_each_file_once(streamed: StreamedImages) -> None:
    task = streamed.on(torch.device("cpu"))
    stream = task.batches(Recipe(batch_size=18), 0)
    seen = torch.cat([next(stream)[1] for _ in range(3)])
    assert sorted(seen.tolist()) == sorted(streamed.splits["train"][1].tolist())
    stream.close()  # type: ignore[attr-defined]


def test_a_test_image_is_its_centre_and_a_training_image_a_part_of_it(tmp_path: Path) -> None:
    ramp = np.zeros((60, 80, 3), np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = np.arange(80), np.arange(60)[:, None]
    file = str(tmp_path / "ramp.png")
    Image.fromarray(ramp).save(file)
    centre = image_folder._image(file, 20, None)
    assert centre[..., 0].mean() == pytest.approx(39.5, abs=2.0)
    assert centre[..., 1].mean() == pytest.approx(29.5, abs=2.0)
    assert np.ptp(centre[..., 1].mean(1)) == pytest.approx(60 / 1.15, abs=4.0)
    random = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = image_folder._random_box(random, 80, 60)
        assert 0 <= left < right <= 80
        assert 0 <= top < bottom <= 60
        assert 0.07 < (right - left) * (bottom - top) / 4800 <= 1
    mirrored = {
        bool(image_folder._image(file, 20, (0, 0, i))[0, 0, 0]
             > image_folder._image(file, 20, (0, 0, i))[0, -1, 0])
        for i in range(20)
    }  # fmt: skip
    assert mirrored == {True, False}


def test_another_file_makes_another_data_set(streamed: StreamedImages) -> None:
    folder = Path(streamed.splits["train"][0][0]).parents[2]
    assert load(str(folder), image_size=10).digest == streamed.digest
    assert load(str(folder), image_size=8).digest != streamed.digest
    Image.fromarray(images(1)[0][0]).save(folder / "train" / "class0" / "another.png")
    assert load(str(folder), image_size=10).digest != streamed.digest


def test_a_convolution_that_a_card_refuses_is_cudnns_from_then_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def refusing(*arguments: Any) -> torch.Tensor:
        asked.append(1)
        raise RuntimeError("triton: no such architecture")

    monkeypatch.setattr(convolution, "_refused", [])
    monkeypatch.setattr(convolution, "kernels", lambda: SimpleNamespace())
    monkeypatch.setattr(convolution._Convolution, "apply", refusing)
    monkeypatch.setattr(convolution.Conv3x3, "_fits", lambda self, x: not convolution._refused)
    layer, x = convolution.Conv3x3(3, 16), torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING, "actsearch"):
        for _ in range(2):
            expected = torch.nn.functional.conv2d(x, layer.weight, None, 1, 1)
            assert torch.equal(layer(x), expected)
    assert len(asked) == 1
    assert "convolutions are cuDNN's: RuntimeError: triton" in caplog.text


def test_networks_of_others_keep_the_counters_of_their_normalisations() -> None:
    class Counting(nn.BatchNorm2d):
        pass

    theirs = nn.Sequential(nn.BatchNorm2d(4), Counting(4))
    ours = child_from("resnet8:width=4")(lambda width: nn.ReLU(), input_shape=(3, 8, 8), classes=4)
    for network in (theirs, ours):
        state._drop_counters(network)
    norms = [[m for m in n.modules() if isinstance(m, nn.BatchNorm2d)] for n in (theirs, ours)]
    kept = [[m.num_batches_tracked is not None for m in found] for found in norms]
    assert kept == [[True, True], [False] * 7]


def test_a_step_among_others_has_the_time_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((1.0, 3.5))
    monkeypatch.setattr(looks.turns, "pass_on", lambda: None)
    training: Any = SimpleNamespace(now=lambda: next(now), unread=0.25)
    looks.PassingOn()(training)
    assert training.unread == 2.75
