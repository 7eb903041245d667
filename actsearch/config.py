"""What each command takes: frozen dataclasses, one field an option. No torch here, so --help is
instant.

None means "what the preset says". The docstring of a field is its help text, and that of a class
ends with an example.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

import tyro
import tyro.constructors

from actsearch.errors import UsageError

Format = Annotated[Literal["table", "csv", "json", "markdown"], tyro.conf.arg(aliases=["-f"])]


def _said(metavar: str) -> Any:
    """An option that may be left unsaid: its help shows no "(default: None)"."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def _read_by(read: Callable[[str], Any], metavar: str) -> Any:
    """How an option of one word is read; what `read` raises is what the user is told."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, (str, int, float)),
        str_from_instance=lambda value: [str(value)],
    )


def _number(kind: type[int] | type[float]) -> Callable[[str], float]:
    def read(word: str) -> float:
        try:
            return kind(word)
        except ValueError:
            what = "a whole number, such as 8" if kind is int else "a number, such as 0.1"
            raise ValueError(f"{word!r} must be {what}") from None

    return read


def _one_of(*known: str) -> tuple[Any, Any]:
    """A word among `known`, which may be left unsaid."""

    def read(word: str) -> str:
        if word not in known:
            raise ValueError(f"{word!r} is not known; use {', '.join(known[:-1])} or {known[-1]}")
        return word

    metavar = "|".join(known) if len(known) < 4 else "|".join((*known[:2], "..."))
    return _read_by(read, metavar), _said(metavar)


_WORD, _INT, _FLOAT = (_read_by(str, "TEXT"), _read_by(_number(int), "INT"),
                       _read_by(_number(float), "FLOAT"))  # fmt: skip
RunFolder = Annotated[str | None, tyro.conf.Positional, _WORD, _said("[RUN]")]
Text = Annotated[str | None, _WORD, _said("TEXT")]
Int = Annotated[int | None, _INT, _said("INT")]
Float = Annotated[float | None, _FLOAT, _said("FLOAT")]
Count = Annotated[int, _INT]
Number = Annotated[float, _FLOAT]
Formulas = Annotated[tuple[str, ...], _said("FORMULA ...")]
Texts = Annotated[tuple[str, ...], _said("TEXT ...")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
Schedule = Annotated[
    Literal["step", "warm-step", "wide-step", "inverse-sqrt", "cosine", "constant"] | None,
    *_one_of("step", "cosine", "constant", "warm-step", "wide-step", "inverse-sqrt"),
]
OperatorSet = Annotated[Literal["guarded", "paper"] | None, *_one_of("guarded", "paper")]
ExecutorName = Annotated[Literal["ray", "inline"] | None, *_one_of("ray", "inline")]
Switch = Annotated[Literal["on", "off"] | None, *_one_of("on", "off")]
Precision = Annotated[Literal["fp32", "tf32", "bf16"] | None, *_one_of("fp32", "tf32", "bf16")]
Kernels = Annotated[
    Literal["auto", "generated", "eager"] | None, *_one_of("auto", "generated", "eager")
]
Preset = Annotated[Literal["quick", "paper"] | None, *_one_of("quick", "paper")]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "space": "tiny",
        "dataset": "mnist5k",
        "child": "resnet8:width=8,size=14",
        "steps": 200,
        "batch_size": 64,
        "lr": 0.1,
        "schedule": "cosine",
        "precision": "fp32",
        "operators": "guarded",
        "screen": "on",
    },
    "paper": {
        "space": "one-unit",
        "dataset": "cifar10",
        "child": "resnet20",
        "steps": 10_000,
        "batch_size": 128,
        "lr": 0.1,
        "schedule": "step",
        "precision": "fp32",
        "operators": "paper",
        "screen": "off",
    },
}


DEFAULTS: Mapping[str, Any] = {
    "strategy": "exhaustive",
    "executor": "ray",
    "preset": "quick",
    "seed": 0,
    "patience": 20_000,
    "kernels": "auto",
    "cuda_graphs": "off",
    "children_per_worker": 1,
    "racing": "off",
    "data_root": "data",
}


WORKERS = ("workers", "workers_per_gpu", "children_per_worker")
LARGEST = 2**63 - 1  # that SQLite keeps


def _check_whole(config: Any, *names: str, least: int = 1) -> None:
    """Whole numbers from `least` on, where they are given."""
    for name in names:
        value, option = getattr(config, name), f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{option} {value!r} must be a whole number")
        if value < least:
            raise ValueError(f"{option} {value} is too small; use {least} or more")
        if value > LARGEST:
            raise ValueError(f"{option} {value} is too large; use {LARGEST} or less")


def _check_positive(config: Any, *names: str) -> None:
    """Numbers above 0, where they are given."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} {value:g} must be a number above 0")


@dataclass(frozen=True)
class SearchConfig:
    """Search a space: train a child network with each function, and rank them.

    The same command on the same folder goes on where it stopped; --budget is the total. What is not
    said comes from the run if there is one, else from the preset.

    Example: actsearch search runs/a --strategy random --budget 50
    """

    run: RunFolder = None
    """Folder of the run [runs/SPACE-STRATEGY-DATASET]."""
    space: Text = None
    """tiny, one-unit, two-units, three-units, or 'units=2;unary=identity,sin;binary=add,mul'."""
    strategy: Text = None
    """exhaustive, random, evolution, surrogate or ppo; options as ppo:lr=0.001 [exhaustive]."""
    halving: Flag = False
    """Train cohorts for a few steps first and only their best to the end; short for +halving behind
    the strategy."""
    racing: Text = None
    """Stop trainings that are not among the best after some steps: on, or such as
    loss:20=0.4,50=0.15 [off]."""
    budget: Int = None
    """Functions to train in total [all of the space]."""
    dataset: Text = None
    """mnist5k, cifar10, cifar100, mnist, svhn, an .npz file, a folder of images a class, or
    FOLDER:en-de with sentences."""
    child: Text = None
    """Child network: resnet8 ... resnet110, preact_resnet, wide_resnet, densenet, mlp, cnn,
    transformer, truncated_mlp, keras_cnn, with options as resnet20:width=8,size=16; or
    torchvision:NAME or timm:NAME, with :size=64 to resize."""
    recipe: Text = None
    """Published settings of a training: he2016a, he2016b, wide_resnet, densenet, transformer, or
    published, which is the child's own; the options below replace parts of it."""
    steps: Int = None
    """Training steps a child."""
    batch_size: Int = None
    """Examples a training step."""
    lr: Float = None
    """Learning rate at the start."""
    schedule: Schedule = None
    """How the learning rate falls: step, warm-step, wide-step, inverse-sqrt, cosine or constant."""
    precision: Precision = None
    """What children compute in: bf16 pays on GPUs and on processors made for it, tf32 on GPUs
    [fp32]."""
    operators: OperatorSet = None
    """Operator set: guarded forms that stay finite, or the paper's plain formulas."""
    screen: Switch = None
    """Reject functions that are constant, affine, without a gradient or not finite before training
    them [on; off in the preset paper]."""
    workers: Int = None
    """Worker processes, on this machine at most one a core [one a core, or one a GPU]."""
    workers_per_gpu: Int = None
    """Workers that share a GPU [1]."""
    children_per_worker: Int = None
    """Children that a worker trains at once, for a GPU that one leaves idle [1]."""
    executor: ExecutorName = None
    """Ray workers, or one child at a time in this process [ray]."""
    ray_address: Text = None
    """A running Ray cluster to join, such as 10.0.0.1:6379."""
    timeout: Float = None
    """Seconds after which a child is stopped and recorded as timed_out [never]."""
    kernels: Kernels = None
    """Activations as generated code where there can be any, always, or never [auto]."""
    cuda_graphs: Switch = None
    """Have a GPU take each training step as one launch, of children of this package [off]."""
    preset: Preset = None
    """quick (the default): minutes on a laptop. paper: ResNet-20, CIFAR-10, plain formulas."""
    seed: Int = None
    """Of initial weights, batches and the strategy [0]."""
    patience: Int = None
    """Stop after so many proposals in a row of functions that are known already [20,000]."""
    data_root: Text = None
    """Where torchvision's data sets lie [data]."""
    download: Flag = False
    """Download the data set if it is not there."""
    image_size: Int = None
    """Side to which images of a folder are resized."""
    tensorboard: Flag = False
    """Keep RUN/tensorboard, scalars of the search for TensorBoard."""
    dry_run: Flag = False
    """Show the plan and stop."""

    def __post_init__(self) -> None:
        _check_whole(self, "budget", "steps", "batch_size", "patience", *WORKERS)
        _check_whole(self, "seed", least=0)
        _check_positive(self, "lr", "timeout")
        choices = {
            "executor": ("ray", "inline"),
            "screen": ("on", "off"),
            "preset": tuple(PRESETS),
            "kernels": ("auto", "generated", "eager"),
            "cuda_graphs": ("on", "off"),
            "precision": ("fp32", "tf32", "bf16"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} {value!r} is not known; use {' or '.join(known)}")

    def resolved(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Every setting: what was said, else what the run has `stored`, else the preset's."""
        said = {k: v for k, v in vars(self).items() if v is not None and v is not False}
        preset = said.get("preset") or stored.get("preset") or DEFAULTS["preset"]
        if "preset" in said:
            stored = {k: v for k, v in stored.items() if k not in PRESETS[preset]}
        known = {**PRESETS[preset], **{k: v for k, v in stored.items() if v is not None}, **said}
        if "recipe" in said:
            from actsearch.child_models.training.recipe import recipe_settings

            known |= {**recipe_settings(said["recipe"], known["child"]), **said}
        return {**vars(self), **DEFAULTS, **known}


@dataclass(frozen=True)
class StopConfig:
    """Ask a search to stop: its running children finish, and nothing is lost.

    Example: actsearch stop runs/a
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""


@dataclass(frozen=True)
class WorkerConfig:
    """Add this machine to a Ray cluster, for as long as this command runs.

    Searches on that cluster that were started without --workers use it within seconds.

    Example: actsearch worker --ray-address 10.0.0.1:6379
    """

    ray_address: Annotated[str, tyro.conf.arg(metavar="TEXT")]
    """The cluster's head, such as 10.0.0.1:6379."""
    run: RunFolder = None
    """Folder of a run on a shared disk: leave the cluster when its search has ended."""
    cpus: Int = None
    """Cores to offer [all]."""
    gpus: Int = None
    """GPUs to offer [all]."""

    def __post_init__(self) -> None:
        _check_whole(self, "cpus")
        _check_whole(self, "gpus", least=0)


@dataclass(frozen=True)
class TopConfig:
    """Rank a run's functions by validation score; works while it searches.

    Example: actsearch top runs/a -n 10 --where 'betas<=1'
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 20
    """How many functions."""
    format: Format = "table"
    """table, csv, json or markdown."""
    where: Annotated[str, _said("CONDITIONS")] = ""
    """Conditions, such as 'monotonic=no, betas<=1, val_accuracy>0.9'."""
    wide: Flag = False
    """Show every column: canonical form, symmetry class, properties."""
    watch: Flag = False
    """Show it again every two seconds."""

    def __post_init__(self) -> None:
        _check_whole(self, "n")


@dataclass(frozen=True)
class ReevaluateConfig:
    """Train a run's best functions again, with several seeds, scored on test data.

    Any children and data sets will do. ReLU and Swish are always beside them, with the same seeds;
    differences to ReLU are paired by seed. The same command goes on where it stopped.

    Example: actsearch reevaluate runs/a --top 5 --seeds 3
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    top: Count = 5
    """How many of the best functions."""
    functions: Formulas = ()
    """Formulas to evaluate in their place."""
    baselines: Literal["beside", "paper"] = "beside"
    """ReLU and Swish alone, or all nine of the paper."""
    child: Texts = ()
    """Child networks [that of the search]."""
    dataset: Texts = ()
    """Data sets [that of the search]."""
    recipe: Text = None
    """Published settings of a training: he2016a, he2016b, wide_resnet, densenet, transformer, or
    published, which is each child's own; the options below replace parts of it."""
    steps: Int = None
    """Training steps a child [as in the search]."""
    batch_size: Int = None
    """Examples a training step [as in the search]."""
    lr: Float = None
    """Learning rate at the start [as in the search]."""
    lr_sweep: Count = 1
    """Try so many learning rates around it, each half a power of ten from the next, for each
    function and model, and keep the best by validation score."""
    schedule: Schedule = None
    """How the learning rate falls [as in the search]."""
    precision: Precision = None
    """What children compute in [as in the search]."""
    seeds: Count = 3
    """Trainings a function."""
    workers: Int = None
    """Worker processes, on this machine at most one a core [one a core, or one a GPU]."""
    workers_per_gpu: Int = None
    """Workers that share a GPU."""
    children_per_worker: Int = None
    """Children that a worker trains at once, for a GPU that one leaves idle [1]."""
    executor: ExecutorName = None
    """Ray workers, or one child at a time in this process [ray]."""
    ray_address: Text = None
    """A running Ray cluster to join."""
    timeout: Float = None
    """Seconds after which a child is stopped [never]."""
    kernels: Kernels = None
    """Activations as generated code where there can be any, always, or never [auto]."""
    cuda_graphs: Switch = None
    """Have a GPU take each training step as one launch, of children of this package [off]."""
    data_root: Text = None
    """Where torchvision's data sets lie [data]."""
    download: Flag = False
    """Download the data set if it is not there."""
    image_size: Int = None
    """Side to which images of a folder are resized."""
    format: Format = "table"
    """table, csv, json or markdown."""

    def __post_init__(self) -> None:
        _check_whole(self, "top", "seeds", "steps", "lr_sweep", "batch_size", *WORKERS)
        _check_positive(self, "lr", "timeout")

    def resolved(
        self, stored: Mapping[str, Any], child: Any = None, dataset: Any = None
    ) -> dict[str, Any]:
        """Every setting of one of the models: what was said, else the recipe's, else what the
        search has `stored`, else the quick preset's."""
        from actsearch.child_models.training.recipe import recipe_settings

        said = {k: v for k, v in vars(self).items() if v is not None and v is not False}
        said |= {"child": child, "dataset": dataset, "workers": self.workers}
        known = {k: v for k, v in stored.items() if v is not None}
        known = {**DEFAULTS, **PRESETS["quick"], **known}
        said = {k: v for k, v in said.items() if v is not None}
        published = recipe_settings(self.recipe, said.get("child", known["child"]))
        return {**known, **published, **said, "workers": self.workers}


@dataclass(frozen=True)
class CompareConfig:
    """Compare re-evaluated functions with one of them, over models and by seed.

    A model is a child on a data set with a recipe. Where a function was trained at several learning
    rates, the one with the best mean validation score counts.

    Example: actsearch compare runs/a --reference gelu
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, _said("[RUN ...]")] = ()
    """Folders of runs with re-evaluations [the newest under runs/]."""
    reference: Annotated[str, tyro.conf.arg(metavar="FUNCTION")] = "relu"
    """What the others are compared with: a baseline's name or a formula."""
    metric: Literal["test", "val"] = "test"
    """Score on the test or on the validation split."""
    round: Int = None
    """Decimals of a per cent to which medians are rounded before wins are counted, such as the
    paper's 1 [full precision]."""
    format: Format = "table"
    """table, csv, json or markdown; csv and json hold the rows of the models."""

    def __post_init__(self) -> None:
        _check_whole(self, "round", least=0)


@dataclass(frozen=True)
class PaperConfig:
    """Print the paper's tables, and beside them what a run has measured.

    Table 3 is counted again, with its sign tests.

    Example: actsearch paper --table 3
    """

    run: RunFolder = None
    """Folder of a run with re-evaluations [the paper alone]."""
    table: Int = None
    """One table, 1 to 11 [all; with a run those of its data sets]."""
    format: Format = "table"
    """table, csv, json or markdown; csv and json hold a row a score."""


@dataclass(frozen=True)
class ExperimentConfig:
    """Re-run a published comparison: train, draw its figures, test its claims.

    mnist-mlp: five activations in a 784-256-64-10 network with three initialisations. mnist-cnn: a
    Keras CNN with ReLU and with Swish. The same command on the same folder goes on where it
    stopped, and a finished one only draws again; tables and figures are in RUN/figures.

    Example: actsearch experiment mnist-mlp --epochs 3
    """

    experiment: Annotated[
        Literal["mnist-mlp", "mnist-cnn"], tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")
    ]
    """mnist-mlp or mnist-cnn."""
    run: RunFolder = None
    """Folder of the run [runs/EXPERIMENT]."""
    dataset: Text = None
    """mnist, mnist5k, an .npz file, or others as in a search [mnist where it is, else mnist5k]."""
    epochs: Int = None
    """Times that the training examples are shown [mnist-mlp 10, mnist-cnn 30]."""
    seeds: Count = 3
    """Trainings of each activation in each setting."""
    sigmas: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Standard deviations of mnist-mlp's initial weights."""
    functions: Formulas = ()
    """Further activations, such as '2*x*sigmoid(beta*x)' or gelu."""
    width: Int = None
    """Units of mnist-mlp's first layer [256], or channels of mnist-cnn's first [32]."""
    batch_size: Int = None
    """Examples a training step [64]."""
    lr: Float = None
    """Adam's learning rate [mnist-mlp 0.0001, mnist-cnn 0.001]."""
    looks: Count = 40
    """Validations along a training."""
    workers: Int = None
    """Worker processes, on this machine at most one a core [one a core, or one a GPU]."""
    workers_per_gpu: Int = None
    """Workers that share a GPU."""
    children_per_worker: Int = None
    """Children that a worker trains at once, for a GPU that one leaves idle [1]."""
    executor: ExecutorName = None
    """Ray workers, or one child at a time in this process [ray]."""
    ray_address: Text = None
    """A running Ray cluster to join."""
    timeout: Float = None
    """Seconds after which a child is stopped [never]."""
    kernels: Kernels = None
    """Activations as generated code where there can be any, always, or never [auto]."""
    cuda_graphs: Switch = None
    """Have a GPU take each training step as one launch, of children of this package [off]."""
    data_root: Text = None
    """Where torchvision's data sets lie [data]."""
    download: Flag = False
    """Download the data set if it is not there."""
    format: Format = "table"
    """table, csv, json or markdown."""

    def __post_init__(self) -> None:
        _check_whole(self, "epochs", "seeds", "width", "looks", *WORKERS)
        _check_whole(self, "batch_size", least=2)
        _check_positive(self, "lr", "timeout")
        if not self.sigmas or not all(0 < sigma < float("inf") for sigma in self.sigmas):
            said = " ".join(f"{sigma:g}" for sigma in self.sigmas) or "without a value"
            raise ValueError(f"--sigmas {said}: give standard deviations above 0, such as 0.1 0.5")


@dataclass(frozen=True)
class PlotConfig:
    """Draw what a run has found: PNG and SVG files, and one HTML file to explore.

    Of the search: functions, progress, losses, cost, operators, failures, controller. Of
    re-evaluations: differences to ReLU, betas (how the trained ones are spread), preactivations
    (how the inputs of activations are).

    Example: actsearch plot runs/a --of cost
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    of: Annotated[
        Literal[
            "all",
            "functions",
            "progress",
            "losses",
            "cost",
            "operators",
            "failures",
            "controller",
            "differences",
            "betas",
            "preactivations",
        ],
        tyro.conf.arg(metavar="KIND"),
    ] = "all"
    """functions, progress, losses, cost, operators, failures, controller, differences, betas,
    preactivations, or all of them."""
    function: Text = None
    """Betas and preactivations of one function alone, such as 'x*sigmoid(beta*x)'."""
    output: Annotated[
        str | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER", help_behavior_hint="")
    ] = None
    """Where the files go [RUN/figures]."""


@dataclass(frozen=True)
class ReportConfig:
    """Write what a run has found as one HTML file that needs nothing else.

    The ranked table, which sorts, and the figures of 'actsearch plot'. Works while the search goes
    on.

    Example: actsearch report runs/a -o report.html
    """

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    output: Annotated[
        str | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")
    ] = None
    """The file [RUN/report.html]."""
    rows: Count = 500
    """Functions in the table, the best first."""

    def __post_init__(self) -> None:
        _check_whole(self, "rows")


@dataclass(frozen=True)
class ReplayConfig:
    """Compare strategies on results that are known already, without training.

    A function of the table costs one training the first time it is proposed, a repeat nothing.

    Example: actsearch replay one-unit --strategy random evolution
    """

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """Folder of a finished run, a .csv or .parquet with the columns formula and accuracy, or
    one-unit, the table of that space which comes with actsearch."""
    strategy: Texts = (
        "random",
        "evolution",
        "surrogate",
        "ppo",
    )
    """Strategies, with options as in a search; the others are tested against the first."""
    repeats: Count = 30
    """Replays a strategy, each with a seed of its own."""
    budget: Int = None
    """Trainings a replay [as many as the table has functions, without --find at most 300]."""
    top: Number = 1.0
    """How good a function must be to count as found: among the best so many per cent."""
    find: Formulas = ()
    """Functions one of which is to be found, in the place of the best so many per cent; a replay
    ends with it."""
    workers: Count = 1
    """How many trainings go on at once: a reward comes while so many others are on their way."""
    space: Text = None
    """Space that the strategies search [that of the run; one-unit for a file]."""
    operators: OperatorSet = None
    """Operator set of a file's results [guarded]."""
    seed: Count = 0
    """The first seed."""
    curves: Text = None
    """A CSV file for the regret after each training: median, quartiles and deciles."""
    format: Format = "table"
    """table, csv, json or markdown."""

    def __post_init__(self) -> None:
        _check_whole(self, "repeats", "budget", "workers")
        _check_whole(self, "seed", least=0)
        if not self.strategy:
            raise ValueError("--strategy needs a name, such as random")
        if not 0 < self.top <= 100:
            raise ValueError(f"--top {self.top:g} must be above 0 and at most 100 per cent")


@dataclass(frozen=True)
class ShowConfig:
    """Say what a function is: its form, operators, parameters, plots of f and f'.

    Example: actsearch show mish
    """

    formula: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FORMULA")]
    """Such as 'x*sigmoid(beta*x)', or a name: relu, gelu, swish, mish."""
    operators: Literal["guarded", "paper"] = "guarded"
    """Operator set in which it is evaluated."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a function as plain code that needs nothing of actsearch.

    It computes what children are trained with, guards included. Only latex shows the bare formula.

    Example: actsearch export runs/a#1 --to torch -o found.py
    """

    function: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FUNCTION|RUN#RANK")]
    """Such as 'x*sigmoid(beta*x)', a name as gelu, or runs/tiny#3: the third of a run."""
    to: Annotated[
        Literal["python", "torch", "jax", "sympy", "latex", "onnx", "c"],
        tyro.conf.arg(metavar="LANGUAGE"),
    ] = "torch"
    """python, torch (an nn.Module), jax, sympy, latex, onnx (needs -o) or c."""
    output: Annotated[
        str | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")
    ] = None
    """The file to write; one that is there is replaced [standard output]."""
    operators: OperatorSet = None
    """Operator set in which it is computed [that of the run, else guarded]."""
    from_weights: Annotated[str | None, _said("FILE")] = None
    """A state_dict saved by torch: the betas that training has found become the initial ones."""
    layer: Annotated[str | None, _said("PREFIX")] = None
    """Which of its activations, where their betas differ, such as blocks.0.act."""
    name: Text = None
    """What the function is called [the name that it has, else activation]."""
    dims: Count = 4
    """Dimensions of the input of an ONNX model: 4 for N, C, H, W."""

    def __post_init__(self) -> None:
        if self.to == "onnx" and self.output is None:
            raise ValueError("--to onnx writes a binary file: name it by -o, such as -o swish.onnx")


@dataclass(frozen=True)
class SpaceConfig:
    """Say how large a search space is and which operators it has.

    Example: actsearch space tiny --distinct
    """

    space: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[SPACE]")] = "one-unit"
    """tiny, one-unit, two-units, three-units, or 'units=2;unary=identity,sin;binary=add,mul'."""
    distinct: Flag = False
    """Count the different functions: by rule, by fingerprint, by symmetry class, and the rejected.
    """
    merged: Flag = False
    """The same, with the pairs that only their fingerprints merge: each could become a rule."""
    list: Flag = False
    """Print each different function that is worth training, as it is found."""
    operators: Literal["guarded", "paper"] = "guarded"
    """Operator set in which functions are compared."""


@dataclass(frozen=True)
class DoctorConfig:
    """Check this machine: versions, devices, Ray, disk, where packages come from.

    Example: actsearch doctor
    """


# What a formula that starts with a minus looks like, such as -x**2 or -abs(x); an option does not.
_NEGATIVE = re.compile(r"-\s*(\(|x\b|beta\b|[\d.]+\s*\*|[a-z_][a-z_0-9]*\().*")


def _as_values(argv: Sequence[str]) -> list[str]:
    """Formulas that start with a minus in parentheses, since they would be taken for options."""
    return [f"({word})" if _NEGATIVE.fullmatch(word) else word for word in argv]


@cache
def _documented(config: type) -> type:
    """With the docstring of each field as its help, in one line, which a terminal breaks anew."""
    [tree] = ast.parse(inspect.getsource(config)).body
    assert isinstance(tree, ast.ClassDef)
    hints = get_type_hints(config, include_extras=True)
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            name, said = field.target.id, " ".join(ast.literal_eval(text.value).split())
            config.__annotations__[name] = Annotated[hints[name], tyro.conf.arg(help=said)]
    config.__doc__ = _wrapped(inspect.cleandoc(config.__doc__ or ""))
    return _with_own_sentences(config)


def _with_own_sentences(config: type) -> type:
    """The same, but its checks raise UsageError: of a ValueError tyro would say the class, too."""

    def check(self: Any) -> None:
        try:
            config.__post_init__(self)
        except ValueError as error:
            raise UsageError(str(error)) from error

    own = {"__post_init__": check} if hasattr(config, "__post_init__") else {}
    return type(config.__name__, (config,), {"__doc__": config.__doc__, **own})


def _wrapped(text: str) -> str:
    """Paragraphs in lines of a terminal. tyro does not wrap them, and keeps only those breaks
    behind which a line is indented."""
    width = min(100, shutil.get_terminal_size().columns) - 1
    paragraphs = (textwrap.wrap(" ".join(p.split()), width, subsequent_indent="  ")
                  for p in text.split("\n\n"))  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in paragraphs)


OVERVIEW = """usage: actsearch COMMAND [OPTIONS]

Search a grammar for activation functions: train networks with each candidate,
rank them, re-evaluate the best.

commands:
{commands}

examples:
  actsearch search             two minutes on 5,000 digits that are here already
  actsearch top                what the newest run under runs/ has found
  actsearch show mish          a function: formula, properties, plots
  actsearch export RUN#1       the best function of a run as code
  actsearch search --help      the options of a command

options:
  -h, --help                   show this
  --version                    show the version

exit codes (docs/exit_codes.md):
  0 done, 1 unexpected, 2 wrong usage, 3 nothing trained, 4 data or machine,
  5 run in use or not there, 75 stopped and can go on, 130 interrupted
"""


def overview(configs: Mapping[str, type]) -> str:
    """What `actsearch --help` says: the first sentence of each command."""
    lines: list[str] = []
    for name, config in configs.items():
        first = " ".join((config.__doc__ or "").split("\n\n")[0].split())
        lines += textwrap.wrap(f"{name:<13}{first}", 78, initial_indent="  ",
                               subsequent_indent=" " * 15, break_on_hyphens=False)  # fmt: skip
    return OVERVIEW.format(commands="\n".join(lines))


def read_command(argv: Sequence[str] | None, configs: Mapping[str, type]) -> Any:
    """The config of the command in `argv` (sys.argv[1:] if None); a usage error exits with 2."""
    return tyro.extras.subcommand_cli_from_dict(
        {name: _documented(config) for name, config in configs.items()},
        prog="actsearch",
        args=_as_values(sys.argv[1:] if argv is None else argv),
    )
