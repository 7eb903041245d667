"""actsearch export: a function as code of another language."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from actsearch.errors import DONE, written
from actsearch.options import OneOf, OperatorSet, Options, Text, Typed, Whole, Word
from actsearch.shown import put


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write a function as plain code that needs nothing of actsearch.

    It computes what children are trained with, guards included. Only latex shows the bare formula.

    Example: actsearch export runs/a#1 --to torch -o found.py
    """

    function: Annotated[str, Word(), Typed(place="FUNCTION|RUN#RANK")]
    """Such as 'x*sigmoid(beta*x)', a name as gelu, or runs/tiny#3: the third of a run."""
    to: Annotated[
        str,
        OneOf("actsearch.search_space.export.exporters:EXPORTERS"),
        Typed(metavar="LANGUAGE"),
    ] = "torch"
    """{names}; torch is an nn.Module, onnx needs -o."""
    output: Annotated[str | None, Word(), Typed(short="-o", metavar="FILE")] = None
    """The file to write; one that is there is replaced [standard output]."""
    operators: OperatorSet = None
    """Operator set in which it is computed [that of the run, else guarded]."""
    from_weights: Annotated[str | None, Word(metavar="FILE")] = None
    """A state_dict saved by torch: the betas that training has found become the initial ones."""
    layer: Annotated[str | None, Word(metavar="PREFIX")] = None
    """Which of its activations, where their betas differ, such as blocks.0.act."""
    name: Text = None
    """What the function is called [the name that it has, else activation]."""
    dims: Annotated[int, Whole(2)] = 4
    """Dimensions of the input of an ONNX model: 4 for N, C, H, W, at least N and C."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to == "onnx" and self.output is None:
            raise ValueError("--to onnx writes a binary file: name it by -o, such as -o swish.onnx")


def run(config: ExportConfig) -> int:
    from actsearch.reading.exporting import export

    code = export(
        config.function,
        config.to,
        operators=config.operators,
        weights=config.from_weights,
        layer=config.layer,
        name=config.name,
        dims=config.dims,
    )
    if config.output is None:
        put(code, end="")  # a text, since ExportConfig wants -o for others
        return DONE
    with written(config.output):
        Path(config.output).write_bytes(code if isinstance(code, bytes) else code.encode())
    put(config.output)
    return DONE
