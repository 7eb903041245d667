"""What the documents tell a reader to type is typed here: commands, scripts and Python.

Code stands indented by four spaces. A block is a paragraph of commands, and what they print, or
Python, or a text. Each `actsearch` line is run in a folder that has what documents name (RUN,
cifar10.npz, model.pt, ...), with a few options behind it that make it short: the last one given
counts. What no test has is said behind the line, as `# needs: a Ray cluster`; then it is only read.
"""

from __future__ import annotations

import ast
import functools
import re
import runpy
import shlex
import shutil
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import nn

import actsearch
from actsearch import cli, errors
from actsearch.child_models.data.datasets import DATASETS
from actsearch.child_models.data.labelled import Dataset, make_dataset
from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.commands.line import read_command
from tests.test_translation import write_pairs

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SKILL.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

INLINE = ["--executor", "inline", "--kernels", "eager"]
SHORT = [*INLINE, "--steps", "2", "--batch-size", "8"]
SHORTER: dict[str, list[str]] = {
    "search": [*SHORT, "--budget", "3"],
    "reevaluate": [*SHORT, "--seeds", "1"],
    "experiment": [*INLINE, "--seeds", "1", "--epochs", "1", "--looks", "2"],
    "replay": ["--repeats", "2", "--budget", "4"],
}
# What an objective sees to itself.
OF_CHILDREN = ("--batch-size", "8")
MY_MODULE = """
from torch import nn

model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))

def train(make_activation, seed, steps, report):
    make_activation(1)
    return {"bits_per_byte": 1.9, "seconds": 0.1}
"""
# What documents call a finished run.
RUNS = ("RUN", "RUN2", "runs/tiny", "runs/cifar")
# Options and the module that they need, by the name of the extra that installs it.
EXTRAS = {
    r"--to onnx": ("export", "onnx"),
    r"\btimm:": ("timm", "timm"),
    r"--tensorboard|--track tensorboard": ("tensorboard", "tensorboard"),
    r"--track wandb": ("wandb", "wandb"),
    r"--track mlflow": ("mlflow", "mlflow"),
    r"actsearch experiment mnist": ("plots", "plotly"),
    r":en-de": ("translation", "sacrebleu"),
    r"tokenizer=": ("text", "tokenizers"),
}
DEV = ("plots", "tensorboard", "translation")  # which `.[dev]` has too
# Run by CI, or by hand under a heading of docs/clusters.md that says what it needs.
TOOLS = ("pytest", "ruff", "pyright")
SHELL = ("actsearch", "python", "ray", "umask", "tensorboard", "#!/bin/bash", *TOOLS)
PYTHON = re.compile(r"^(import|from|def|class) |\b(actsearch|nn|torch)\.", re.MULTILINE)


# -- what the documents hold


@dataclass(frozen=True)
class Block:
    """Indented lines of a document: its commands, each on one line, and what stands below them."""

    document: str
    section: str
    commands: tuple[str, ...]
    rest: str

    @property
    def first(self) -> str:
        return (*self.commands, self.rest)[0].split("\n")[0]

    @property
    def tree(self) -> ast.Module | None:
        """Its Python, where that is what stands there."""
        for source in (self.rest, f"{{{self.rest}}}"):  # rows of a dict are Python too
            try:
                return ast.parse(source)
            except SyntaxError:
                continue
        return None


def blocks(document: Path) -> Iterator[Block]:
    section, lines = "", []
    for line in [*document.read_text().splitlines(), "end"]:
        if line.startswith("    ") or (lines and not line):
            lines.append(line)
            continue
        if lines:
            yield _block(document.name, section, textwrap.dedent("\n".join(lines)).strip("\n"))
            lines = []
        section = line if line.startswith("#") else f"{section}\n{line}"


def _block(document: str, section: str, text: str) -> Block:
    if text.split(maxsplit=1)[0] not in SHELL:
        return Block(document, section, (), text)
    shell, _, rest = text.partition("\n\n")
    lines = re.sub(r"\\\n\s*", "", shell).split("\n")
    return Block(document, section, tuple(lines), textwrap.dedent(rest).strip("\n"))


def split_comment(line: str) -> tuple[list[str], str]:
    """The words of a command (RUN#1 is one), and the comment behind it."""
    command, _, comment = re.sub(r"\s#\s", "\0", line, count=1).partition("\0")
    return shlex.split(command), comment.strip()


def needs(line: str) -> str:
    return split_comment(line)[1].partition("needs:")[2].strip()


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
LINES = [(line, block) for block in BLOCKS for line in block.commands]
# Each command once, and the lines that have it.
COMMANDS: dict[str, list[str]] = {}
for _line, _ in LINES:
    if _line.startswith("actsearch "):
        COMMANDS.setdefault(shlex.join(split_comment(_line)[0]), []).append(_line)
CODE = [block for block in BLOCKS if block.rest and block.tree is not None]

# Beginnings of what takes more than some seconds: trainings, processes, a whole space, all figures.
DEAR = re.compile(
    r"actsearch (search|reevaluate|experiment|replay|space (one-unit|gates) --distinct|plot RUN$)"
    "|import torch.nn.functional|wave = |from transformers import GPT2"
    "|import numpy as np\nfrom torch import nn\nimport actsearch"
)


def beyond_tests(command: str) -> bool:
    """Whether a line that has it says that it needs more than a package of Python."""
    said = [needs(line) for line in COMMANDS[command]]
    return any(what and "pip install" not in what for what in said)


def slow_where_dear(command: str) -> Any:
    dear = DEAR.match(command) and not beyond_tests(command)
    return pytest.param(command, marks=[pytest.mark.slow] if dear else [], id=command)


def slow_code_where_dear(block: Block) -> Any:
    name = f"{block.document}: {block.rest.splitlines()[0]}"
    return pytest.param(block, marks=[pytest.mark.slow] if DEAR.match(block.rest) else [], id=name)


# -- a folder that has what they name


def images(name: str, classes: int = 10, n: int = 160, shape: tuple[int, ...] = (32, 32, 3)) -> Any:
    """Images that can be told apart by their brightness."""
    y = np.arange(n) % classes
    noise = np.random.default_rng(0).integers(0, 100, (n, *shape))
    x = (noise + 15 * y.reshape(-1, *[1] * len(shape)) % 256).astype(np.uint8)
    return make_dataset(name, (x, y), (x, y))


def _pictures(classes: int, name: str, *_: Any) -> Any:
    return images(name, classes)


def write_npz(path: Path, data: Dataset) -> None:
    x = data.x_train.transpose(0, 2, 3, 1) if data.x_train.shape[1] == 3 else data.x_train[:, 0]
    np.savez(path, x_train=x, y_train=data.y_train, x_test=x, y_test=data.y_train)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search and its re-evaluation on two models, under all names of documents; data."""
    folder = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        space = "units=1;unary=identity,relu,sigmoid;binary=add,mul"
        plan = [
            "search",
            "RUN",
            "--space",
            space,
            "--child",
            "mlp:width=16",
            "--dataset",
            "mnist5k",
        ]
        assert cli.main([*plan, *SHORT]) == 0
        again = ["reevaluate", "RUN", "--top", "2", "--child", "mlp:width=16", "mlp:width=8"]
        assert cli.main([*again, *SHORT, "--seeds", "3"]) == 0
        (folder / "my_module.py").write_text(MY_MODULE)
        own = ["--objective", "my_module:train", "--minimise", "bits_per_byte", "--steps", "2"]
        assert cli.main(["search", "runs/bytes", *own, *INLINE, "--budget", "2"]) == 0
        np.savez("table.npz", x_train=points(folder)[:, :6], y_train=points(folder)[:, 7])
        child = ["--child", "my_module:model", "--dataset", "table.npz", "--task", "regression"]
        score = ["--match", "nn.GELU", "--minimise", "RMSE"]
        assert cli.main(["search", "runs/table", *child, *score, *SHORT, "--budget", "2"]) == 0
    for name in RUNS[1:]:
        shutil.copytree(folder / "RUN", folder / name)
    write_npz(folder / "cifar10.npz", images("cifar10"))
    write_npz(folder / "mnist_10k.npz", images("mnist", shape=(28, 28)))
    (folder / "prose.txt").write_text("Some words, and some more of them. " * 100)
    (folder / "multi30k").mkdir()
    write_pairs(folder / "multi30k", {"train": 200, "val": 20, "test": 20})
    beta = {"blocks.0.act.beta.0": torch.full((4,), 1.5), "blocks.1.act.beta.0": torch.ones(4)}
    torch.save(beta, folder / "model.pt")
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, and the current one. Data sets to be downloaded are small and here,
    and the second look of `--watch` is an interrupt."""
    folder = Path(shutil.copytree(prepared, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        monkeypatch.setitem(DATASETS, name, functools.partial(_pictures, classes))

    def interrupt(_: float) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("actsearch.commands.top.time", SimpleNamespace(sleep=interrupt))
    return folder


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def skip_without_extras(line: str) -> None:
    for pattern, (extra, module) in EXTRAS.items():
        if re.search(pattern, line):
            why = f"{module} is not installed: pip install -e '.[{extra}]'"
            pytest.importorskip(module, reason=why)


# -- commands


@pytest.mark.parametrize("command", [slow_where_dear(command) for command in COMMANDS])
def test_a_documented_command_works(
    command: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)
    configs = {name: config for name, (config, _) in cli.COMMANDS.items()}
    assert isinstance(read_command(words[1:], configs), configs[words[1]])
    if beyond_tests(command):
        return  # it reads well, and the rest is not here
    skip_without_extras(command)
    folder = request.getfixturevalue("here")
    before = state(folder)
    capfd.readouterr()
    racing = ["--steps", "60"] if "--racing" in words else []  # its milestones come before the end
    short = SHORTER.get(words[1], [])
    if "runs/bytes" in words or "--objective" in words:
        short = [word for word in short if word not in OF_CHILDREN]
    timed = ["--steps", "100", "--child", "mlp"] if "cost" in words else []  # as long as it takes
    code = cli.main([*words[1:], *short, *racing, *(timed if words[1] == "search" else [])])
    out, err = capfd.readouterr()
    allowed = {errors.DONE}
    if words[1] == "doctor":  # says so where this machine lacks something
        allowed.add(errors.ENVIRONMENT)
    assert code in allowed, err
    said = err if "--dry-run" in words else out  # a plan is no result
    assert said.strip() or state(folder) != before
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).exists()


def test_a_command_that_joins_a_cluster_says_so() -> None:
    for line, block in LINES:
        if line.startswith("actsearch ") and "--ray-address" in line:
            assert needs(line), f"{block.document}: end {line!r} in '# needs: a Ray cluster'"


def test_what_is_to_be_installed_stands_in_the_line_or_elsewhere_in_its_document() -> None:
    for line, block in LINES:
        text = next(d for d in DOCUMENTS if d.name == block.document).read_text()
        named = set(re.findall(r"\[(\w+)\]'", text))
        named |= set(DEV) if "dev" in named else set()
        for pattern, (extra, _) in EXTRAS.items():
            found = line.startswith("actsearch ") and re.search(pattern, line)
            assert not found or extra in named, f"{block.document}: {line}: [{extra}]"


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if b.document == "export.md" and b.commands and b.rest],
    ids=lambda b: b.first,
)
def test_what_the_document_shows_is_what_is_exported(
    block: Block, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = block.commands
    skip_without_extras(line)
    words, _ = split_comment(line)
    assert cli.main(words[1:]) == 0
    if "-o" not in words:
        assert capsys.readouterr().out.strip() == block.rest


# -- other lines of a shell


class ReadWell(Exception):
    """The options of a script are known."""


@pytest.mark.parametrize("line", [x for x, _ in LINES if x.startswith("python benchmarks/")])
def test_a_documented_script_knows_its_options(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, _ = split_comment(line)
    read = ArgumentParser.parse_args

    def parse_args(self: ArgumentParser) -> NoReturn:
        read(self)
        raise ReadWell

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", words[1:])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(ReadWell):
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")


def test_any_other_line_is_cis_or_says_what_it_needs() -> None:
    for line, block in LINES:
        ours = line.startswith(("actsearch ", "python benchmarks/", "python -m pip ", *TOOLS, "#"))
        said = block.document == "clusters.md" and "This needs " in block.section
        assert ours or said or needs(line), f"{block.document}: end {line!r} in '# needs: ...'"


def test_no_line_begins_with_a_prompt() -> None:
    for document in DOCUMENTS:
        assert not re.search(r"^ {4,}\$ ", document.read_text(), re.MULTILINE), document.name


# -- Python


def points(_: Path) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)


def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed")


def a_checkpoint(folder: Path) -> str:
    """Of a small BERT that was trained with GELU."""
    library = transformers()
    from transformers.activations import ACT2FN

    ACT2FN["found"] = actsearch.act_layer("x * sigmoid(beta * x)")
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    library.BertModel(library.BertConfig(vocab_size=20, **sizes)).save_pretrained(folder / "bert")
    return str(folder / "bert")


def a_trained_model(_: Path) -> nn.Module:
    """Of `points`, with a function of ours and a ReLU."""
    act = actsearch.Activation("x * sigmoid(beta * x)", channels=4)
    nn.init.constant_(act.beta[0], 1.37)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    model.add_module("act", act)
    return model


# What a block takes for granted: names that it uses and does not make.
GIVEN: dict[str, Callable[[Path], Any]] = {
    "x": points,
    "y": lambda _: np.arange(120) % 3,
    "model": a_trained_model,
    "example": lambda folder: torch.as_tensor(points(folder)[:2]),
    "checkpoint": a_checkpoint,
    "actsearch": lambda _: actsearch,
    "torch": lambda _: torch,
    "nn": lambda _: nn,
    "F": lambda _: nn.functional,
    "Op": lambda _: actsearch.Op,
    "BertModel": lambda _: transformers().BertModel,
    "mpmath": lambda _: pytest.importorskip("mpmath"),
    "timm": lambda _: pytest.importorskip("timm", reason="timm is not installed"),
    "torchvision": lambda _: import_torchvision(),
}
# What a last line is worth, by how it begins: documents tell it.
WORTH: dict[str, Callable[[Any], bool]] = {
    "actsearch.formula(model.act)": lambda text: text == "x * sigmoid(1.37 * x)",
    "session.run(None,": lambda out: np.allclose(out, [[-0.26894143, 0.0, 0.7310586]]),
}


def taken_for_granted(tree: ast.Module) -> set[str]:
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    made |= {(a.asname or a.name).split(".")[0] for n in imports for a in n.names}
    return {node.id for node in names} - made


def shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """search and reevaluate of Python with the options that make commands short."""
    for name, options in (("search", {"budget": 3}), ("reevaluate", {"seeds": 1})):
        short = {"executor": "inline", "kernels": "eager", "steps": 2, "batch_size": 8, **options}
        real = getattr(actsearch, name)

        def call(*args: Any, real: Any = real, short: Any = short, **given: Any) -> Any:
            if "objective" in given:
                short = {name: value for name, value in short.items() if name != "batch_size"}
            return real(*args, **{**given, **short})

        monkeypatch.setattr(actsearch, name, call)


@pytest.mark.parametrize("block", [slow_code_where_dear(block) for block in CODE])
def test_documented_python_runs(block: Block, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch)
    import_torchvision()  # before timm and transformers import it
    for command in block.commands:
        words, _ = split_comment(command)
        if "-o" in words:  # the code may read the file; other commands are tested above
            skip_without_extras(command)
            assert cli.main(words[1:]) == 0
    tree = block.tree
    assert tree is not None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            library = (module or "").split(".")[0]
            pytest.importorskip(library, reason=f"{library} is not installed")
    granted = taken_for_granted(tree) & set(GIVEN)
    names: dict[str, Any] = {name: GIVEN[name](here) for name in granted}
    names["__name__"] = "documented"
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, block.document, "exec"), names)  # noqa: S102
    if isinstance(last, ast.Expr):
        worth = eval(compile(ast.Expression(last.value), block.document, "eval"), names)  # noqa: S307
        for start, right in WORTH.items():
            assert not ast.unparse(last).startswith(start) or right(worth), worth


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.rest and b.tree is None], ids=lambda b: b.first
)
def test_what_is_no_python_does_not_look_like_it(block: Block) -> None:
    assert not PYTHON.search(block.rest)


def test_blocks_of_all_kinds_are_found() -> None:
    """So that a change of how documents are written does not leave the tests above empty."""
    found = {shlex.split(command)[1] for command in COMMANDS}
    assert found >= set(cli.COMMANDS) - {"space"}
    assert {"README.md", "SKILL.md"} <= {block.document for block in BLOCKS}
    assert {"README.md", "CONTRIBUTING.md", "export.md", "report.md"} <= {
        block.document for block in CODE
    }
    for end in WORTH:
        assert any(end in block.rest for block in CODE), end
