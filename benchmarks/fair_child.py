"""Which small CNN ranks functions as a language model and a larger CNN do, and condemns few.

    python benchmarks/fair_child.py train RESULTS.jsonl --images CIFAR10.npz   # hours; resumes
    python benchmarks/fair_child.py say RESULTS.jsonl

104 functions: 20 of the table of the one-unit space that grow like a square or faster and diverged
in its child, 74 others from all its ranks, and ten by name. Each is trained with two seeds in seven
networks: the table's ResNet-8 (`resnet8`), two with a linear trunk (`trunk_resnet`, an activation
in each branch of one convolution; `two_convolutions`, one in each branch of two), the first of them
by the optimiser of the others, a small ConvNeXt (`convnext`), and two with which the others are
compared: the language model (`gpt`) and a ConvNeXt of twice the width. Intervals are a bootstrap
over functions (95 %, 2,000 resamples, seed 0).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import nn

from actsearch.child_models.data.sources import load
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.convolution import Conv3x3
from actsearch.child_models.networks.image_network import ImageNetwork
from actsearch.child_models.networks.resnet import subsampled
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.results.benchmarks import load_benchmark
from actsearch.results.records import Trial
from actsearch.results.tables import to_markdown
from actsearch.search_space.activation import MakeActivation
from actsearch.search_space.analysis.evaluation import curves
from actsearch.search_space.parser import parse

NAMED = {
    "relu": "relu(x)", "swish": "x * sigmoid(beta * x)", "gelu": "gelu(x)", "tanh": "tanh(x)",
    "relu^2": "relu(x)**2", "x^2": "x**2", "x|x|": "x * abs(x)", "elu": "elu(x)",
    "softplus": "softplus(x)", "identity": "x",
}  # fmt: skip
STEEP_NAMED = (NAMED["relu^2"], NAMED["x^2"], NAMED["x|x|"])
SEEDS = (0, 1)
STEEP = 1.5  # a power of x between x and x^2
SIDE = 16  # images are averaged down to 16x16
CHANCE = 0.12  # of ten classes: below it a network has learnt next to nothing
LEARNT_NOTHING = 4.5  # bits per byte: the frequencies of bytes alone have 4.56
# Functions of the sample that had been trained, in part, when the ConvNeXt was added and its first
# weights were changed.
SEEN = 55
RESAMPLES = 2_000


class TwoConvolutions(nn.Module):
    """x + BN(conv(act(BN(conv(x)))))."""

    def __init__(self, make: MakeActivation, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            Conv3x3(channels_in, channels, stride), nn.BatchNorm2d(channels), make(channels),
            Conv3x3(channels, channels), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.stride, self.new_channels = stride, channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + subsampled(x, self.stride, self.new_channels)


class TwoConvolutionsNet(ImageNetwork):
    def __init__(self, make: MakeActivation, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, SIDE)
        self.blocks = nn.Sequential(
            Conv3x3(3, 8), nn.BatchNorm2d(8), TwoConvolutions(make, 8, 8, 1),
            TwoConvolutions(make, 8, 16, 2), TwoConvolutions(make, 16, 32, 2),
        )  # fmt: skip
        self.head = nn.Linear(32, classes)
        self.initialise()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@dataclass(frozen=True)
class Network:
    """A child by name or as a builder, its data, and how it is trained."""

    child: str | Callable[..., nn.Module]
    images: bool
    recipe: Recipe


QUICK = Recipe(steps=300, batch_size=64, lr=0.1, schedule="cosine")
CLIPPED = Recipe(steps=300, batch_size=64, lr=0.1, schedule="cosine", clip=1.0)
ADAMW = Recipe(
    steps=300, batch_size=64, lr=2e-3, schedule="warm-cosine", optimiser="adamw",
    weight_decay=0.05, clip=1.0,
)  # fmt: skip
NETWORKS: Mapping[str, Network] = {
    "resnet8": Network(f"resnet8:width=8,size={SIDE}", True, QUICK),
    "trunk_resnet": Network(f"trunk_resnet:width=8,size={SIDE}", True, CLIPPED),
    "two_convolutions": Network(TwoConvolutionsNet, True, CLIPPED),
    "gpt": Network("gpt", False, RECIPES["gpt"]),
    "trunk_resnet by adamw": Network(f"trunk_resnet:width=8,size={SIDE}", True, ADAMW),
    "convnext": Network("convnext", True, ADAMW),
    "large_convnext": Network("convnext:width=48", True, ADAMW),
}
REFERENCES = ("gpt", "large_convnext")


def growth(expressions: Sequence[str]) -> np.ndarray:
    """The power of x that a function grows with from 10 to 20, on its steeper side."""
    points = torch.tensor([10.0, 20.0, -10.0, -20.0], dtype=torch.float64)
    y = torch.cat([c.value[:, 0] for c in curves(map(parse, expressions), points)]).abs() + 1e-12
    return torch.maximum(y[:, 1] / y[:, 0], y[:, 3] / y[:, 2]).log2().numpy()


def diverged_in_the_table() -> str:
    table = load_benchmark()
    steep = table[growth(table["expression"]) >= STEEP]
    return f"{(steep['status'] == 'diverged').sum()} of {len(steep)}"


def sample() -> pd.DataFrame:
    """The functions in the order in which they are trained: expression, group, accuracy in the
    table's child."""
    table = load_benchmark()
    table["growth"] = growth(table["expression"])
    steep = table[(table["status"] == "diverged") & (table["growth"] >= STEEP)]
    finite = table[table["status"] == "ok"]
    parts = {
        "steep": steep.sample(20, random_state=2027),
        "first 600": finite[finite["rank"] <= 600].sample(35, random_state=2027),
        "middle": finite[(finite["rank"] > 600) & (finite["accuracy"] >= 0.2)].sample(
            25, random_state=2027
        ),
        "last": finite[finite["accuracy"] < 0.2].sample(15, random_state=2027),
    }
    named = pd.DataFrame({"expression": NAMED.values(), "group": "named"})
    drawn = pd.concat([part.assign(group=name) for name, part in parts.items()])
    drawn = drawn[~drawn["expression"].isin(named["expression"])].sample(frac=1, random_state=0)
    return pd.concat([named, drawn], ignore_index=True)[["expression", "group", "accuracy"]]


def train(given: argparse.Namespace) -> None:
    [path] = given.results
    done = {(r["network"], r["expression"], r["seed"]) for r in results(path)}
    images, text = load(str(given.images)), load("stdlib")
    networks = {name: NETWORKS[name] for name in given.networks}
    evaluators = {
        name: Evaluator(images if net.images else text, child_from(net.child), net.recipe)
        for name, net in networks.items()
    }
    for seed in given.seeds:
        for expression in sample()["expression"]:
            for name, evaluator in evaluators.items():
                if (name, expression, seed) in done:
                    continue
                key = str(parse(expression))
                trial = Trial(0, "reevaluate", key, evaluator.protocol_hash, seed)
                outcome = evaluator(trial)
                row = {
                    "network": name, "expression": expression, "seed": seed,
                    "status": outcome.status, "reason": outcome.reason,
                    "score": outcome.val_score, "seconds": round(outcome.seconds, 2),
                }  # fmt: skip
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def results(path: Path) -> Iterator[dict[str, object]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """A row a training; `reward` is better where it is higher, and NaN where it failed."""
    frame = pd.DataFrame([row for path in paths for row in results(path)])
    frame["reward"] = frame["score"].where(frame["network"] != "gpt", -frame["score"])
    return frame


def mean_rewards(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a function that is done in all networks with all seeds, and a column a network: the
    mean over seeds, NaN where a training failed."""
    trainings = frame["network"].nunique() * frame["seed"].nunique()
    whole = frame.groupby("expression").filter(lambda rows: len(rows) == trainings)
    groups = whole.groupby(["expression", "network"])["reward"]
    return groups.agg(lambda seeds: seeds.mean(skipna=False)).unstack()


def failing(frame: pd.DataFrame, steep: Sequence[str]) -> pd.DataFrame:
    """Of the trainings of steep functions: how many were not finite, and how many stayed at chance
    (a language model at the frequencies of bytes)."""
    rows = []
    for name, part in frame[frame["expression"].isin(steep)].groupby("network", sort=False):
        scores = part["score"].dropna()
        chance = (scores > LEARNT_NOTHING) if name == "gpt" else (scores < CHANCE)
        rows.append(
            {
                "network": name,
                "trainings": len(part),
                "not finite": int(part["score"].isna().sum()),
                "at chance": int(chance.sum()),
                "mean of the others": f"{scores[~chance].mean():.3f}",
            }
        )
    return pd.DataFrame(rows)


def agreement(rewards: pd.DataFrame, one: str, other: str, less: str | None = None) -> str:
    """Spearman's correlation over functions, failures last, with its interval; minus that of
    `less` with the same."""
    if one == other:
        return ""
    worst = rewards[[one, other, less or one]].fillna(-np.inf).to_numpy()
    drawn = np.random.default_rng(0).integers(0, len(worst), (RESAMPLES, len(worst)))

    def correlation(sample: np.ndarray) -> np.ndarray:
        found = spearman(sample[..., :2])
        return found if less is None else found - spearman(sample[..., [2, 1]])

    [found] = correlation(worst[None])
    low, high = np.nanquantile(correlation(worst[drawn]), (0.025, 0.975))
    return f"{found:.2f} ({low:.2f} to {high:.2f})"


def spearman(pairs: np.ndarray) -> np.ndarray:
    """(resamples, n, 2) -> (resamples,)."""
    ranks = rankdata(pairs, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    x, y = ranks[..., 0], ranks[..., 1]
    return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))


def seed_noise(frame: pd.DataFrame, functions: Sequence[str]) -> pd.Series:
    """The standard deviation of a training of these functions, beyond the common effect of its
    seed."""
    chosen = frame[frame["expression"].isin(functions)]
    pairs = chosen.pivot_table("score", ["network", "expression"], "seed").dropna()
    return pairs.diff(axis=1).iloc[:, -1].groupby(level="network").std() / np.sqrt(2)


def say(given: argparse.Namespace) -> None:
    drawn = sample().set_index("expression")
    is_steep = drawn.index.isin(STEEP_NAMED) | (drawn["group"] == "steep")
    steep, others = list(drawn.index[is_steep]), list(drawn.index[~is_steep])
    frame = read(given.results)
    rewards = mean_rewards(frame)
    done = rewards.index
    groups = drawn.loc[done, "group"]
    print(f"Steep functions of the table that diverged in its child: {diverged_in_the_table()}.")
    print("Steep functions, by training:")
    print(to_markdown(failing(frame, steep).to_dict("records")))
    print(f"Spearman's correlation with the references, 95 %, {frame['seed'].nunique()} seeds:")
    parts = {
        "not steep": done[done.isin(others)],
        "not steep, without the last group": done[done.isin(others) & (groups != "last")],
        "all": done,
        "not steep, unseen": done[done.isin(others) & ~done.isin(drawn.index[:SEEN])],
    }
    noise = seed_noise(frame, others)
    rows = []
    for name in [n for n in NETWORKS if n in rewards]:
        row: dict[str, object] = {"network": name}
        for reference in REFERENCES:
            for part, which in parts.items():
                key = f"{reference}: {part}, n = {len(which)}"
                row[key] = agreement(rewards.loc[which], name, reference)
        rows.append(row | {"noise": f"{noise.get(name, np.nan):.3f}"})
    print(to_markdown(rows))
    print("The ConvNeXt's correlation with the gpt minus another network's, 95 %:")
    for name in [n for n in NETWORKS if n in rewards and n not in ("convnext", "gpt")]:
        apart = {part: agreement(rewards.loc[which], "convnext", "gpt", name)
                 for part, which in parts.items()}  # fmt: skip
        print(f"  {name}: " + ", ".join(f"{part} {text}" for part, text in apart.items()))
    print("Means over seeds, bits per byte of the gpt and else accuracy:")
    named = rewards.reindex(NAMED.values()).abs().map("{:.3f}".format)
    named.insert(0, "function", list(NAMED))
    print(to_markdown(named.to_dict("records")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "say"))
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, help="CIFAR-10 as x_train, y_train, x_test, y_test")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    given = parser.parse_args()
    {"train": train, "say": say}[given.what](given)
