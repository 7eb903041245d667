"""Settings: groups of options that several commands share, and what follows from them.

`resolve` says every setting of a search or of a training: what was said, else what the run has
stored, else what the preset says. No torch here, so --help is instant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from actsearch.child_models.data.tasks import TASKS
from actsearch.child_models.recipe import (
    WITH_MOMENTUM,
    recipe_settings,
    settings_of,
    usual_settings,
)
from actsearch.controller.strategies import with_options
from actsearch.options import (
    AutoOnOff,
    Count,
    Flag,
    Float,
    FloatOrZero,
    Formulas,
    Int,
    IntOrAuto,
    Listed,
    OneOf,
    OnOff,
    OperatorSet,
    Options,
    RunFolder,
    Text,
    Texts,
    Whole,
    Word,
    listed,
)
from actsearch.results.aims import COST, WAYS, parts, words
from actsearch.results.metrics import Metric, metric_from

_RECIPE = "actsearch.child_models.recipe:"
_CHILDREN = "actsearch.child_models.networks.children:CHILDREN"
_DATASETS = "actsearch.child_models.data.datasets:DATASETS"
_TASKS = "actsearch.child_models.data.tasks:TASKS"
Recipe = Annotated[str | None, OneOf(_RECIPE + "RECIPE_NAMES")]
Schedule = Annotated[str | None, OneOf(_RECIPE + "SCHEDULES")]
Optimiser = Annotated[str | None, OneOf(_RECIPE + "OPTIMISERS")]
Loss = Annotated[str | None, OneOf(_RECIPE + "LOSSES")]
Precision = Annotated[str | None, OneOf(_RECIPE + "PRECISIONS", also=("auto",))]
Executor = Annotated[str | None, OneOf("actsearch.workers.executor:EXECUTORS")]
Kernels = Annotated[str | None, OneOf("actsearch.search_space.text:KERNELS")]
Preset = Annotated[str | None, OneOf("actsearch.settings:PRESETS")]
Baselines = Annotated[
    tuple[str, ...], Word("actsearch.search_space.baselines:GROUPS", metavar="NAME ...")
]
Trackers = Annotated[
    str | Sequence[str] | None,
    Listed(table="actsearch.searching.tracking.trackers:TRACKERS", metavar="NAME,..."),
]
Strategy = Annotated[str | None, Word("actsearch.controller.strategies:STRATEGIES")]
Scores = Annotated[str | None, Listed(metavar="NAME")]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "space": "tiny",
        "dataset": "mnist5k",
        "child": "convnext:width=16",
        "steps": 200,
        "batch_size": 64,
        "lr": 0.1,
        "schedule": "cosine",
        "precision": "auto",
        "operators": "guarded",
        "screen": "on",
        "baselines": ("identity",),
    },
    "paper": {
        "space": "one-unit",
        "dataset": "cifar10",
        "child": "resnet20",
        "steps": 10_000,
        "batch_size": 128,
        "lr": 0.1,
        "schedule": "step",
        "precision": "auto",
        "operators": "paper",
        "screen": "off",
        "baselines": (),
    },
}

# Options of strategies by preset, unless others are said: the paper's controller has no model.
OF_STRATEGIES: Mapping[str, Mapping[str, Mapping[str, str]]] = {"paper": {"ppo": {"model": "none"}}}


# A command lists its groups from the last to the first: dataclasses put the fields of the last base
# first, and help shows them in that order.


@dataclass(frozen=True)
class TrainingOptions(Options):
    """How children are trained."""

    recipe: Recipe = None
    """Published settings of a training: {names}. The first is the child's own; the options below
    replace parts of it."""
    steps: Int = None
    """Training steps a child."""
    batch_size: Annotated[int | None, Whole(2)] = None
    """Examples a training step."""
    lr: Float = None
    """Learning rate at the start."""
    schedule: Schedule = None
    """How the learning rate falls: {names}."""
    optimiser: Optimiser = None
    """What takes the steps: {names} [sgd; adamw for convnext, gpt, regressions and
    language models]."""
    momentum: FloatOrZero = None
    """Of sgd and nesterov, from 0 to below 1 [0.9]."""
    weight_decay: FloatOrZero = None
    """Weight decay [1e-4; 0.05 for convnext, 0.1 for gpt and language models, 0.01 for
    regressions]."""
    clip: FloatOrZero = None
    """Norm to which a longer gradient is scaled down, 0 for never [0; 1 where it is adamw]."""
    loss: Loss = None
    """What is made small: {names}. The first two classify, the others are of a regression
    [softmax; mse for a regression]."""
    label_smoothing: FloatOrZero = None
    """Share of a label's weight that goes to all classes, from 0 to below 1 [0]."""
    precision: Precision = None
    """What children compute in: bf16 pays on GPUs and on processors made for it, tf32 on GPUs
    [auto: bf16 where this machine has a GPU, else fp32]."""


@dataclass(frozen=True)
class MachineryOptions(Options):
    """Who trains, and by what means."""

    workers: Int = None
    """Worker processes, on this machine at most one a core [one a core, or one a GPU]."""
    workers_per_gpu: Int = None
    """Workers that share a GPU [1]."""
    children_per_worker: IntOrAuto = None
    """Children that a worker trains at once, for a GPU that one leaves idle [auto: several where it
    has a GPU, else one]."""
    executor: Executor = None
    """Ray workers, or this process alone [ray]."""
    ray_address: Text = None
    """A running Ray cluster to join, such as 10.0.0.1:6379."""
    timeout: Float = None
    """Seconds after which a child is stopped and recorded as timed_out [never]."""
    checkpoint_every: Float = None
    """Seconds between checkpoints in RUN/checkpoints, from which a training goes on that was killed
    [never]."""
    kernels: Kernels = None
    """Activations as generated code where there can be any, always, or never [auto]."""
    cuda_graphs: AutoOnOff = None
    """Have a GPU take each training step as one launch, of children of this package [auto, which is
    on]."""


@dataclass(frozen=True)
class DataOptions(Options):
    """Where named data sets are found."""

    data_root: Text = None
    """Where torchvision's data sets lie [data]."""
    download: Flag = False
    """Download the data set if it is not there."""


@dataclass(frozen=True)
class ImageOptions(DataOptions):
    """The same, of folders of images too."""

    image_size: Int = None
    """Side to which images of a folder are resized."""


@dataclass(frozen=True)
class CandidateOptions(Options):
    """What is searched, how, and on what it is tried."""

    run: RunFolder = None
    """Folder of the run [runs/SPACE-STRATEGY-DATASET]."""
    space: Text = None
    """tiny, one-unit, two-units, three-units, of gates gates, gates-two, with constants modern-one,
    modern-two, modern-gates, two of them as tiny+gates, or 'units=2;unary=identity,sin,0.5*x;
    binary=add,mul'."""
    groups: Annotated[int | None, Whole(2)] = None
    """Search one function for each of so many groups of layers, first to last, all of the space
    [the same function in every layer]."""
    ties: OnOff = None
    """Share the betas of a core unit among all uses of it: on or off [off]."""
    strategy: Strategy = None
    """{names}; options as ppo:lr=0.001, which 'actsearch options ppo' lists; or external:COMMAND, a
    command that is asked for formulas (docs/proposers.md) [exhaustive]."""
    halving: Flag = False
    """Train cohorts for a few steps first and only their best to the end; short for +halving behind
    the strategy."""
    racing: Text = None
    """Stop trainings that are not among the best after some steps: on, or such as
    loss:20=0.4,50=0.15 [off]."""
    budget: Int = None
    """Functions to train in total [all of the space]; with --confirm on all trainings count."""
    confirm: OnOff = None
    """Train the best functions again with other seeds, as often as pays, and rank by what is
    expected of them then: on or off [off]."""
    start: Formulas = ()
    """Formulas, names or RUN#RANK to train first, as candidates, before those of the strategy; they
    count in the budget."""
    baselines: Baselines = ()
    """Known functions to train beside it, which are no candidates: {names}, names and formulas; a
    run keeps those that it has [ReLU and Swish, which are always there; in the preset quick the
    identity too]."""
    dataset: Annotated[str | None, Word(_DATASETS)] = None
    """{names}, an .npz file, a folder of images a class, FOLDER:en-de with sentences, text (a .txt
    or .gz file or a folder of .txt), which takes :context=128,tokenizer=FILE.json, or an .npy file
    of token ids, which takes :context=128,vocabulary=50257."""
    child: Annotated[str | None, Word(_CHILDREN)] = None
    """Child network: {names}, with options as resnet20:width=8,size=16, which 'actsearch options
    resnet20' lists; torchvision:NAME or timm:NAME, with :size=64 to resize; or one of your own, as
    my_module:net."""


@dataclass(frozen=True)
class ModelOptions(Options):
    """What a model of one's own is for, and where the candidate goes in it."""

    task: Annotated[str | None, OneOf(_TASKS)] = None
    """What arrays are for: {names} [classification]."""
    match: Text = None
    """What gives way to the candidate in a model of your own that is built already, as
    nn.GELU,F.gelu or my_module:Gate [all common activations]."""


@dataclass(frozen=True)
class ObjectiveOptions(Options):
    """A training of one's own, in the place of child and data set."""

    objective: Text = None
    """A training of your own, as my_module:train: it is called as train(make_activation, seed,
    steps, report) and returns scores by name."""
    minimise: Scores = None
    """The score of the objective, or of the task, that is searched for, where less is better. A
    search takes several, as mse,seconds, and beside any child cost, the time of a step over one of
    ReLU (docs/several_objectives.md)."""
    maximise: Scores = None
    """The same, where more is better."""


@dataclass(frozen=True)
class SearchOptions(
    ImageOptions,
    MachineryOptions,
    TrainingOptions,
    ObjectiveOptions,
    ModelOptions,
    CandidateOptions,
):
    """All that a search can be told."""

    operators: OperatorSet = None
    """Operator set: guarded forms that stay finite, or the paper's plain formulas."""
    screen: OnOff = None
    """Reject functions that are constant, affine, without a gradient or not finite before training
    them [on; off in the preset paper]."""
    where: Annotated[str | None, Listed(metavar="CONDITIONS")] = None
    """Limits that a function is to keep, such as 'cost<=1.1', of cost or scores."""
    preset: Preset = None
    """quick (the default): minutes on a laptop. paper: ResNet-20, CIFAR-10, plain formulas."""
    seed: Annotated[int | None, Whole(0)] = None
    """Of initial weights, batches and the strategy [0]."""
    patience: Int = None
    """Stop after so many proposals in a row of functions that are known already [20,000]."""
    track: Trackers = None
    """Show the search in these, too: {names}; each needs its package (docs/report.md)."""
    tensorboard: Flag = False
    """Short for --track tensorboard."""


@dataclass(frozen=True)
class FunctionOptions(Options):
    """What is trained again, and on what."""

    run: RunFolder = None
    """Folder of the run [the newest under runs/]."""
    top: Count = 5
    """How many of the best functions; baselines stand beside them and do not count."""
    functions: Formulas = ()
    """Formulas, names or RUN#RANK to evaluate in their place."""
    baselines: Baselines = ()
    """Known functions beside them: {names}, names and formulas [ReLU and Swish alone]."""
    child: Texts = ()
    """Child networks [that of the search]."""
    dataset: Texts = ()
    """Data sets [that of the search]."""
    seeds: Count = 3
    """Trainings a function."""
    lr_sweep: Count = 1
    """Try so many learning rates around the usual one, each half a power of ten from the next, for
    each function and model, and keep the best by validation score."""


@dataclass(frozen=True)
class ReevaluateOptions(
    ImageOptions, MachineryOptions, TrainingOptions, ObjectiveOptions, ModelOptions, FunctionOptions
):
    """All that a re-evaluation can be told."""


@dataclass(frozen=True)
class Settings:
    """Every setting of a search, or of the training of one model. From Python `space`, `dataset`,
    `child`, `objective`, `metric`, `match` and `example` may be objects. With an objective those of
    children are None. `minimise` and `maximise` are the metric's name, `aims` and `where` what is
    sought besides, as `results/aims.py` reads it. The last one is said by recipes alone."""

    space: Any
    dataset: Any
    child: Any
    steps: int
    batch_size: int | None
    lr: float | None
    schedule: str | None
    precision: str | None
    operators: str
    screen: str
    objective: Any = None
    minimise: str | None = None
    maximise: str | None = None
    aims: str = ""
    where: str = ""
    metric: Any = None
    task: str | None = None
    match: Any = None
    example: Any = None
    groups: int | None = None
    ties: str = "off"
    strategy: str = "exhaustive"
    halving: bool = False
    racing: str = "off"
    budget: int | None = None
    confirm: str = "off"
    baselines: tuple[str, ...] = ()
    recipe: str | None = None
    workers: int | None = None
    workers_per_gpu: int | None = None
    children_per_worker: int | str = "auto"
    executor: str = "ray"
    ray_address: str | None = None
    timeout: float | None = None
    checkpoint_every: float | None = None
    kernels: str = "auto"
    cuda_graphs: str = "auto"
    preset: str = "quick"
    seed: int = 0
    patience: int = 20_000
    data_root: str = "data"
    download: bool = False
    image_size: int | None = None
    track: str | Sequence[str] | None = None
    tensorboard: bool = False
    optimiser: str | None = None
    weight_decay: float | None = None
    clip: float | None = None
    momentum: float | None = None
    label_smoothing: float | None = None
    loss: str | None = None
    shuffle: bool | None = None

    @property
    def trackers(self) -> tuple[str, ...]:
        """Their names, each once."""
        return listed([*listed(self.track), *["tensorboard"] * self.tensorboard])


_NAMES = frozenset(f.name for f in fields(Settings))
# What says how children are trained, and on what. An objective sees to that itself.
_OF_CHILDREN = (
    "child", "dataset", "task", "match", "example",
    *(f.name for f in fields(TrainingOptions) if f.name != "steps"),
    "image_size", "data_root", "download", "checkpoint_every",
)  # fmt: skip
_SCORE = ("minimise", "maximise", "metric")
_THE_COST = ("minimise", COST.name)


def resolve(said: Mapping[str, Any], stored: Mapping[str, Any] | None = None) -> Settings:
    """Every setting: what was `said`, else by a recipe that was said or that comes with another
    child, else what the run has `stored`, else by the preset. None and False are unsaid. A preset
    that is said goes before what is stored. Baselines that are said are added to those of a run."""
    said = {k: v for k, v in said.items() if k in _NAMES and v is not None and v is not False}
    has_own = "child" not in said and (stored or {}).get("child", "") is None  # an object
    stored = {k: v for k, v in (stored or {}).items() if k in _NAMES and v is not None}
    preset = said.get("preset") or stored.get("preset") or "quick"
    if isinstance(said.get("strategy"), str):
        said["strategy"] = with_options(said["strategy"], OF_STRATEGIES.get(preset, {}))
    kept = stored.get("precision")
    baselines = _baselines(said.pop("baselines", ()), stored, preset)
    if "preset" in said:
        stored = {k: v for k, v in stored.items() if k not in PRESETS[preset]}
    if (task := getattr(said.get("dataset"), "task", None)) is not None:
        said = {"task": task, **said}  # they are made for it
    stored = {k: v for k, v in stored.items() if k not in {*_of_another(said, stored)}}
    known = {**PRESETS[preset], "preset": preset, **stored, **said, "baselines": baselines}
    said = _told_apart(said, known)
    known |= {"minimise": None, "maximise": None, **said}
    _check_objective(said, known)
    if known.get("objective") is not None:
        own = {name: None for name in _OF_CHILDREN if name in PRESETS[preset]}
        return Settings(**{"kernels": "eager", **known, **own})
    child, task = known["child"], known.get("task")
    row = TASKS.get(task or "")
    published = recipe_settings(said.get("recipe"), child)
    if not published and child != stored.get("child") and not has_own:
        published = usual_settings(child)
        if row is not None and published.get("loss") not in row.losses:
            published = {}  # of a child for another task, which says so itself
    if not published and task != stored.get("task"):
        published = settings_of(row.recipe) if row is not None and row.recipe else {}
    settings = {**known, **published, **said}
    if settings["precision"] == "auto":  # the run keeps what it means here
        settings["precision"] = kept or _usual_precision()
    _check_momentum(said, settings)
    return Settings(**settings)


def _of_another(said: Mapping[str, Any], stored: Mapping[str, Any]) -> Iterator[str]:
    """What the run has stored of its data and its child, where others are said."""
    if isinstance(child := said.get("child"), str) and child != stored.get("child"):
        yield "match"
    task = stored.get("task")
    if isinstance(data := said.get("dataset"), str) and data != stored.get("dataset"):
        task = None
        yield "task"
    objective = said.get("objective", stored.get("objective"))
    if objective is None and said.get("task", task) != stored.get("task"):
        yield from ("metric", "loss", "label_smoothing")


def _baselines(said: Iterable[str], stored: Mapping[str, Any], preset: str) -> tuple[str, ...]:
    """A run keeps those that it has; a new one has the preset's unless others are said."""
    if stored:
        return tuple(dict.fromkeys((*stored.get("baselines", ()), *said)))
    return tuple(said) or PRESETS[preset]["baselines"]


def _check_objective(said: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises ValueError for what does not go together with an objective, or without one."""
    objective, score = known.get("objective"), [f"--{name}" for name in _SCORE if name in said]
    further = parts(said.get("aims"))
    if objective is None and (others := [aim for aim in further if aim != words([_THE_COST])]):
        if _scores(known):
            raise ValueError(
                f"--{others[0]}: a child of a data set has one score that is searched for, and "
                "besides it --minimise cost; leave the other out"
            )
        score = [f"--{others[0].partition(' ')[0]}"]
    if objective is None and score and not _scores(known):
        raise ValueError(
            f"{score[0]} says which score of an objective or of a task is searched for; give that "
            "too, as --objective my_module:train or --task regression (of any child there is "
            "--minimise cost)"
        )
    if len(score) > 1:
        raise ValueError(f"{' and '.join(score)}: one score is searched for; say one of them")
    if objective is not None and (other := [n for n in _OF_CHILDREN if n in said]):
        raise ValueError(
            f"--{other[0].replace('_', '-')} is for children of a data set, and the objective "
            f"{getattr(objective, '__name__', objective)} trains in its own way; leave one of the "
            "two out"
        )


def _told_apart(said: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, with the metric alone in `minimise` and `maximise`, and in `aims` what is
    sought besides. The metric is what Python or the run calls so, else the first that was said; the
    cost only where an objective has nothing else to go by."""
    named = [(way, name) for way in WAYS for name in parts(said.get(way))]
    if not named:
        return dict(said)
    for i, (_, name) in enumerate(named):
        if name in [other for _, other in named[:i]]:
            raise ValueError(f"{name} is sought twice; say it once, by --minimise or --maximise")
    rest = {name: value for name, value in said.items() if name not in WAYS}
    of_objective, metric = known.get("objective") is not None, known.get("metric")
    chosen = None
    if of_objective or _scores(known):
        chosen = next((pair for pair in named if _is_metric(pair, metric)), None)
        if chosen is None and "metric" not in said:
            chosen = next((pair for pair in named if pair != _THE_COST), None)
            if chosen is None and of_objective and metric is None:
                chosen = named[0]
    said_of_it = {} if chosen is None else {chosen[0]: chosen[1]}
    return {**rest, **said_of_it, "aims": words(pair for pair in named if pair != chosen)}


def _is_metric(pair: tuple[str, str], metric: Any) -> bool:
    if not isinstance(metric, str | Mapping | Metric):
        return False
    of = metric_from(metric)
    return pair[1] == of.name and WAYS[pair[0]] == of.direction


def _scores(known: Mapping[str, Any]) -> bool:
    """Whether the data have several scores to choose from."""
    task = TASKS.get(known.get("task") or "")
    of_data = getattr(known["dataset"], "scores", () if task is None else task.scores)
    return len(of_data) > 1


def _check_momentum(said: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    optimiser = settings.get("optimiser") or "sgd"
    if "momentum" in said and optimiser not in WITH_MOMENTUM:
        raise ValueError(
            f"--momentum is of {' and '.join(WITH_MOMENTUM)}, and {optimiser} has decay rates of "
            "its own; leave one of the two out"
        )


def _usual_precision() -> str:
    import torch  # which help and checks of what is said do without

    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
