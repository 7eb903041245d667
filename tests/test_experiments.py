"""The published comparisons: their networks, their data, their runs, their claims."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats
from torch import nn

from actsearch import cli
from actsearch.child_models.data.classification import Classification
from actsearch.child_models.data.labelled import as_published, make_dataset
from actsearch.child_models.networks.one_beta import OneBeta
from actsearch.child_models.networks.zoo import child_from
from actsearch.commands.experiment import ExperimentConfig
from actsearch.results.statistics import correlation_within
from actsearch.run import Run
from actsearch.search_space.activation import Activation
from actsearch.studies.claims import Claim, Course, NoPrediction
from actsearch.studies.experiments import (
    _dataset,
    _settings,
    run_experiment,
    steps_an_epoch,
)
from actsearch.studies.published import EXPERIMENTS

QUIET = Console(quiet=True)
SWISH = "mul(x, sigmoid(scale(x)))"
SHAPES = {"truncated_mlp": (1, 28, 28), "keras_cnn": (1, 28, 28)}


def built(name: str, expression: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return child_from(name)(
        lambda c: Activation(expression, c), input_shape=(1, 28, 28), classes=10
    )


# -- the networks


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_initial_values_are_of_a_normal_distribution_cut_at_two_deviations(sigma: float) -> None:
    model = built(f"truncated_mlp:sigma={sigma}", "relu(x)")
    values = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy() / sigma
    assert len(values) == 784 * 256 + 256 + 256 * 64 + 64 + 64 * 10 + 10
    assert abs(values).max() <= 2.0
    assert values.std() == pytest.approx(stats.truncnorm.std(-2, 2), rel=0.01)
    assert stats.kstest(values, stats.truncnorm(-2, 2).cdf).pvalue > 0.001


def test_biases_are_drawn_as_weights_are() -> None:
    model = built("truncated_mlp:sigma=0.5,width=4096", "relu(x)")
    biases = next(m for m in model.modules() if isinstance(m, nn.Linear)).bias.detach().numpy()
    assert stats.kstest(biases / 0.5, stats.truncnorm(-2, 2).cdf).pvalue > 0.001


def test_the_keras_network_has_the_parameters_of_its_layers() -> None:
    """Counted by hand, kernel by kernel: 887,530, as Keras prints for this network."""
    by_hand = 25 * 32 + 32, 25 * 32 * 32 + 32, 9 * 32 * 64 + 64, 9 * 64 * 64 + 64
    dense = 7 * 7 * 64 * 256 + 256 + 256 * 10 + 10
    model = built("keras_cnn", "relu(x)")
    assert sum(p.numel() for p in model.parameters()) == sum(by_hand) + dense == 887_530
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.padding[0]) for c in convolutions] == [
        (32, 5, 2), (32, 5, 2), (64, 3, 1), (64, 3, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_seed_decides_the_initial_weights_whatever_the_activation(name: str) -> None:
    def weights(expression: str, seed: int) -> list[torch.Tensor]:
        layers = [m for m in built(name, expression, seed).modules() if hasattr(m, "weight")]
        return [p for m in layers for p in m.parameters()]

    first = weights("x", 3)
    for text in ("sigmoid(x)", "relu(x)", SWISH, "mul(mul(2, x), sigmoid(scale(x)))"):
        assert all(map(torch.equal, first, weights(text, 3)))
    assert not torch.equal(first[0], weights("x", 4)[0])


@pytest.mark.parametrize(("name", "layers"), [("truncated_mlp", 2), ("keras_cnn", 5)])
def test_there_is_one_beta_a_layer(name: str, layers: int) -> None:
    activations = [m for m in built(name, SWISH).modules() if isinstance(m, Activation)]
    assert [tuple(b.shape) for a in activations for b in a.beta] == [(1,)] * layers


@pytest.mark.parametrize("kernels", ["eager", "auto"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 6, 5)])
def test_one_beta_acts_on_the_whole_layer_and_keeps_its_layout(
    kernels: str, shape: tuple[int, ...]
) -> None:
    module = OneBeta(lambda c: Activation(SWISH, c, kernels=kernels))
    with torch.no_grad():
        next(module.parameters()).fill_(1.5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = module(x)
    assert y.stride() == x.stride()
    assert torch.allclose(y, x / (1 + (-1.5 * x).exp()), atol=1e-6)
    y.sum().backward()
    beta = next(module.parameters())
    gate = torch.sigmoid(1.5 * x.detach())
    assert beta.grad is not None
    assert beta.grad.item() == pytest.approx((x**2 * gate * (1 - gate)).sum().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("truncated_mlp:sigma=0", "sigma=0.0 needs a number above 0"),
        ("truncated_mlp:sigma=nan", "sigma=nan needs a number, as 0.01"),
        ("truncated_mlp:sigma=wide", "sigma=wide needs a number, as 0.01"),
        ("truncated_mlp:width=2.5", "width=2.5 needs a whole number"),
    ],
)
def test_a_child_whose_numbers_cannot_be_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        child_from(text)


# -- data and recipe


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An .npz of 100 + 40 grey images of 8 x 8 in three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(140) % 3
    x = (rng.integers(0, 60, (140, 8, 8)) + 60 * y[:, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    return str(path)


def small(name: Any, dataset: str, run: Path, **options: Any) -> ExperimentConfig:
    settings = dict(
        epochs=2, seeds=2, width=8, batch_size=16, looks=3, executor="inline", kernels="eager"
    )
    return ExperimentConfig(name, str(run), dataset=dataset, **{**settings, **options})


def test_ten_epochs_of_54_000_images_by_64_are_the_posts_8_440_steps() -> None:
    x = np.zeros((70_000, 2), np.float32)
    y = np.arange(70_000) % 10
    data = as_published(make_dataset("mnist", (x[:60_000], y[:60_000]), (x[60_000:], y[60_000:])))
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (54_000, 6_000, 10_000)
    assert EXPERIMENTS["mnist-mlp"].epochs * steps_an_epoch(data, 64) == 8_440


def test_the_mlp_is_shown_pixels_from_0_to_1_in_the_order_of_the_data(
    digits: str, tmp_path: Path
) -> None:
    [setting, *_] = _settings(
        EXPERIMENTS["mnist-mlp"], small("mnist-mlp", digits, tmp_path, lr=None)
    )
    data, recipe = setting.evaluator.dataset, setting.evaluator.recipe
    assert (len(data.x_train), len(data.x_val), recipe.steps) == (90, 10, 12)
    assert (recipe.optimiser, recipe.lr, recipe.loss) == ("adam", 1e-4, "sigmoid")
    assert (recipe.weight_decay, recipe.lr_factor(recipe.steps - 1)) == (0.0, 1.0)
    stream = Classification(data, torch.device("cpu")).batches(recipe, seed=7)
    seen = torch.cat([next(stream)[0] for _ in range(6)]).numpy()  # 5 whole batches, then anew
    expected = data.x_train[[*range(80), *range(16)]] / 255
    assert np.allclose(seen, expected, atol=1e-6)


def test_the_published_form_holds_the_same_examples_and_leaves_floats_alone() -> None:
    x, y = np.arange(40, dtype=np.float32)[:, None], np.arange(40) % 2
    before = make_dataset("d", (x, y))
    after = as_published(before)
    for data in (before, after):
        together = np.concatenate([data.x_train, data.x_val, data.x_test])
        assert sorted(together[:, 0].tolist()) == list(range(40))
    assert np.array_equal(before.x_test, after.x_test)
    assert (after.mean, after.std) == (0, 1)
    assert after.digest != before.digest


def test_without_torchvisions_mnist_the_bundled_digits_are_used(tmp_path: Path) -> None:
    assert _dataset(ExperimentConfig("mnist-mlp", data_root=str(tmp_path))).name == "mnist5k"


# -- runs


@pytest.fixture(scope="module")
def plotly() -> None:
    pytest.importorskip("plotly", reason="plotly is not installed: pip install plotly")


@pytest.fixture(scope="module")
def finished(plotly: None, digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mnist-mlp with two sigmas and one more function, two seeds."""
    run = tmp_path_factory.mktemp("runs") / "mlp"
    more = {"sigmas": (0.1, 0.5), "functions": ("2*x*sigmoid(beta*x)", "relu(x)")}
    report = run_experiment(small("mnist-mlp", digits, run, **more), QUIET)
    assert len(report.results) == 12
    assert all(path.stat().st_size > 0 for path in report.files)
    return run


def details(run: Path) -> dict[int, Any]:
    store = Run.open(run).store(readonly=True)
    try:
        return {number: outcome.details for number, outcome in store.outcomes("reevaluate")}
    finally:
        store.close()


def test_every_activation_is_trained_with_every_sigma_and_seed(finished: Path) -> None:
    rows = Run.open(finished).rows("reevaluate")
    assert {row["status"] for row in rows} == {"ok"}
    names = {"linear", "sigmoid", "ReLU", "Swish-1", "Swish-beta", "2 * x * sigmoid(beta * x)"}
    keys = [(row["label"], row["protocol"], row["seed"]) for row in rows]
    protocols = {row["protocol"] for row in rows}
    assert len(protocols) == 2
    assert sorted(keys) == sorted((n, p, s) for n in names for p in protocols for s in (0, 1))


def test_trainings_are_validated_along_the_way_and_betas_followed(finished: Path) -> None:
    by_label = {row["id"]: row["label"] for row in Run.open(finished).rows("reevaluate")}
    for number, found in details(finished).items():
        assert [step for step, *_ in found["track"]] == [0, 4, 8, 12]
        betas = 2 if "beta" in by_label[number] else 0
        assert all(len(row[2]) == betas for row in found["track"])
        assert found["track"][0][2] == [1.0] * betas


@pytest.mark.thorough
def test_the_same_command_trains_nothing_twice_and_more_seeds_only_the_new_ones(
    finished: Path, digits: str
) -> None:
    more: dict[str, Any] = {"sigmas": (0.1, 0.5), "functions": ("2*x*sigmoid(beta*x)",)}
    before = {row["id"]: row["finished"] for row in Run.open(finished).rows("reevaluate")}
    tables = [p.read_text() for p in sorted((finished / "figures").glob("*.csv"))]
    run_experiment(small("mnist-mlp", digits, finished, **more), QUIET)
    assert {r["id"]: r["finished"] for r in Run.open(finished).rows("reevaluate")} == before
    assert [p.read_text() for p in sorted((finished / "figures").glob("*.csv"))] == tables
    run_experiment(small("mnist-mlp", digits, finished, **more, seeds=3), QUIET)
    after = {row["id"]: row["finished"] for row in Run.open(finished).rows("reevaluate")}
    assert {k: v for k, v in after.items() if k in before} == before
    assert len(after) == len(before) * 3 // 2


def test_an_experiment_writes_its_tables_and_figures(finished: Path) -> None:
    folder = finished / "figures"
    assert {p.name for p in folder.iterdir()} >= {
        "accuracy-sigma-0.1.png", "accuracy-sigma-0.5.png", "betas-by-step.png",
        "accuracy-and-time.png", "experiment.html", "results.csv", "claims.csv",
    }  # fmt: skip
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    stored = Run.open(finished).rows("reevaluate")
    for row in rows:
        child = f"truncated_mlp:sigma={row['where'].split()[1]},width=8"
        store = Run.open(finished).store(readonly=True)
        mine = [
            r["test_score"]
            for r in stored
            if r["label"] == row["name"] and store.protocol(r["protocol"])["child"] == child
        ]
        store.close()
        assert int(row["n"]) == len(mine) >= 2
        assert float(row["test accuracy"]) == pytest.approx(np.mean(mine))
        assert (row["beta at the end"] != "") == ("beta" in row["formula"])
        assert float(row["s/epoch"]) > 0


def test_the_cnn_is_re_run_by_one_command_with_both_tables_in_json(
    plotly: None, digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "cnn"
    arguments = (
        f"experiment mnist-cnn {run} --dataset {digits} --epochs 1 --seeds 1 --width 2 "
        "--batch-size 16 --executor inline --kernels eager -f json"
    )
    assert cli.main(arguments.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["results"]] == list(EXPERIMENTS["mnist-cnn"].functions)
    assert all(row["n"] == 1 and row["standard error"] is None for row in told["results"])
    assert [row["where"] for row in told["claims"]] == ["CNN", "CNN"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("mnist-mlp --dataset nowhere.npz", 4, "no file nowhere.npz"),
        ("mnist-mlp --functions sin(x", 2, "column 6"),
        ("mnist-cnn --dataset {points}", 2, "mnist-cnn does not fit points: a keras_cnn takes"),
    ],
)
def test_what_cannot_be_run_gets_a_sentence_before_anything_trains(
    arguments: str,
    code: int,
    sentence: str,
    plotly: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    points = tmp_path / "points.npz"
    np.savez(points, x_train=np.zeros((50, 3), np.float32), y_train=np.arange(50) % 2)
    assert cli.main(["experiment", *arguments.format(points=points).split()]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigmas": (0.1, 0.0)}, "--sigmas 0 must be a number above 0"),
        ({"sigmas": ()}, "--sigmas needs standard deviations above 0, such as 0.1 0.5"),
        ({"seeds": 0}, "--seeds 0 is too small"),
        ({"batch_size": 1}, "--batch-size 1 is too small; use 2"),
        ({"lr": 0.0}, "--lr 0 must be a number above 0"),
    ],
)
def test_settings_that_cannot_be_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ExperimentConfig("mnist-mlp", **options)


# -- claims


def made_up(name: str, seed: int, early: float, end: float, setting: str = "s") -> Course:
    """Four looks; `early` is the accuracy at the second, a quarter of 40 steps being 10."""
    accuracy = (0.1, early, 0.5, end)
    return Course(setting, name, seed, (0, 11, 22, 40), accuracy, (), end, 2.0 + seed)


def test_a_claim_counts_the_seeds_that_bear_it_out_and_pairs_differences() -> None:
    courses = [
        made_up("a", 0, 0.30, 0.90), made_up("b", 0, 0.20, 0.90),
        made_up("a", 1, 0.20, 0.92), made_up("b", 1, 0.20, 0.90),
        made_up("a", 2, 0.50, 0.80), made_up("b", 2, 0.30, 0.95),
        made_up("a", 3, 0.99, 0.99),  # without its partner
        made_up("a", 0, 0.99, 0.99, "elsewhere"),
    ]  # fmt: skip
    early = Claim("s", "", "ahead", "a", "b", 0.25).row(courses)
    assert early["held"] == "2 of 3 seeds"  # a tie is no lead
    assert early["difference, paired"] == pytest.approx((0.1 + 0 + 0.2) / 3)
    assert early["its standard error"] == pytest.approx(0.1 / math.sqrt(3))
    assert early["tested as"] == "a above b at 25% of the steps"
    end = {t: Claim("s", "", t, "a", "b").row(courses)["held"] for t in
           ("ahead", "clearly ahead", "level", "no worse")}  # fmt: skip
    assert end == {
        "ahead": "1 of 3 seeds",  # 0, +0.02, -0.15
        "clearly ahead": "1 of 3 seeds",
        "level": "1 of 3 seeds",
        "no worse": "2 of 3 seeds",
    }


def test_a_claim_of_time_compares_shares() -> None:
    slow = [Course("s", "a", seed, (), (), (), 0.9, t) for seed, t in ((0, 1.25), (1, 1.4))]
    fast = [Course("s", "b", seed, (), (), (), 0.9, 1.0) for seed in (0, 1)]
    row = Claim("s", "", "dearer", "a", "b").row([*slow, *fast])
    assert row["held"] == "1 of 2 seeds"
    assert row["difference, paired"] == pytest.approx(0.325)


def test_a_claim_about_what_was_not_trained_says_so() -> None:
    row = Claim("s", "", "ahead", "a", "b").row([made_up("a", 0, 0.1, 0.2)])
    assert (row["held"], row["difference, paired"]) == ("not trained", None)


def followed(seed: int, end: float, accuracy: float, setting: str = "s") -> Course:
    betas = ((1.0, 1.0), (1.2, 1.0), (end, 1.0))
    return Course(setting, "a", seed, (0, 1, 2), (0.1, 0.1, 0.1), betas, accuracy, 1.0)


def test_the_path_of_beta_is_correlated_with_the_end_within_settings() -> None:
    rng = np.random.default_rng(0)
    ends, noise = 1 + 0.1 * rng.normal(size=12), 0.01 * rng.normal(size=12)
    scores = 0.5 + ends / 10 + noise
    courses = [
        followed(i, float(e), float(s) - (0.3 if i % 2 else 0), f"s{i % 2}")
        for i, (e, s) in enumerate(zip(ends, scores, strict=True))
    ]
    centred = [
        np.concatenate([v[k::2] - v[k::2].mean() for k in (0, 1)]) for v in (ends, scores)
    ]  # fmt: skip
    r = stats.pearsonr(*centred).statistic
    row = NoPrediction("a", "net change").row(courses)
    assert f"r = {r:+.2f} over 12 trainings" in row["note"]
    # mean beta goes from 1 to 1.1 and on to (end + 1) / 2
    length = [abs(0.1) + abs((e + 1) / 2 - 1.1) for e in ends]
    centred[0] = np.concatenate([np.array(length[k::2]) - np.mean(length[k::2]) for k in (0, 1)])
    r = stats.pearsonr(*centred).statistic
    assert f"r = {r:+.2f}" in NoPrediction("a", "length of the path").row(courses)["note"]


@pytest.mark.parametrize(
    ("slope", "n", "verdict"),
    [(0.0, 4, "undecided"), (1.0, 30, "refuted"), (0.0, 400, "yes"), (0.02, 400, "refuted")],
)
def test_that_beta_predicts_nothing_is_held_only_where_the_interval_is_narrow(
    slope: float, n: int, verdict: str
) -> None:
    rng = np.random.default_rng(1)
    ends, other = rng.normal(size=n) / 10 + 1, rng.normal(size=n)
    other -= np.polyval(np.polyfit(ends, other, 1), ends)  # uncorrelated
    scores = 0.5 + slope * (ends - 1) + 0.01 * other
    courses = [followed(i, float(e), float(s)) for i, (e, s) in enumerate(zip(ends, scores,
               strict=True))]  # fmt: skip
    assert NoPrediction("a", "net change").row(courses)["held"] == verdict


def test_three_trainings_have_a_correlation_and_no_verdict() -> None:
    courses = [followed(seed, 1 + seed / 10, 0.9 - seed / 10) for seed in range(3)]
    row = NoPrediction("a", "net change").row(courses)
    assert row["held"] == "not known"
    assert row["note"] == "r = -1.00 over 3 trainings, too few for an interval"


def test_the_interval_of_a_correlation_is_fishers() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 9))
    found, known = correlation_within([list(zip(a, b, strict=True))]), stats.pearsonr(a, b)
    assert found is not None
    assert found.r == pytest.approx(known.statistic)
    interval = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-4)
    assert correlation_within([[(1.0, 2.0), (1.0, 3.0)]]) is None
