"""A model for ONNX runtimes: x in, or x and g of a gate, y out, float32 (N, C, ...); betas are
initializers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actsearch.search_space.export.lowering import Exported, lowered
from actsearch.search_space.export.writing import simplified
from actsearch.search_space.kernels.program import Node
from actsearch.search_space.kernels.tracing import trace

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes of today all read

OPERATORS = {
    "neg": "Neg", "abs": "Abs", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin",
    "cos": "Cos", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh",
    "atan": "Atan", "erf": "Erf", "sigmoid": "Sigmoid", "relu": "Relu", "softplus": "Softplus",
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min",
    "clamp_min": "Max", "clamp_max": "Min", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual", "where": "Where",
}  # fmt: skip


def write(source: Exported) -> bytes:
    """Raises ModuleNotFoundError where the package onnx is not installed."""
    try:
        import onnx.checker  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--to onnx needs the package onnx, which is not installed: python -m pip install onnx",
            name="onnx",
        ) from error
    model = _Graph(source, onnx).model()
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and initializers of a model while it is built; values are named t1, t2 and so on."""

    def __init__(self, source: Exported, onnx: Any) -> None:
        self.source = source
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.known: dict[Node, str] = {}

    def model(self) -> Any:
        helper, source = self.onnx.helper, self.source
        _, main = lowered(source)
        traced = trace(source.expr, source.operators)
        self.known |= {node: node.name for node in traced.inputs}
        for node, name, values in zip(traced.betas, source.beta_names, source.betas, strict=True):
            self.known[node] = self.beta(name, values)
        self.output(traced.y, any(map(main.reads, source.expr.inputs)))
        element, shape = self.onnx.TensorProto.FLOAT, _shape(source.dims)
        graph = helper.make_graph(
            self.nodes,
            source.name,
            [helper.make_tensor_value_info(n, element, shape) for n in source.expr.inputs],
            [helper.make_tensor_value_info("y", element, shape)],
            self.initializers,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="actsearch",
            producer_version=source.version,
            doc_string="\n".join(source.header),
        )

    def value(self, node: Node) -> str:
        """The name of the value of `node`, whose steps are added where they are not there."""
        if node not in self.known:
            self.known[node] = self.made(node)
        return self.known[node]

    def made(self, node: Node) -> str:
        if node.name == "const":
            return self.number(node.value)
        name, args = simplified(node)
        if name == "sinc":
            return self.sinc(self.value(args[0]))
        if name == "softplus":
            args = args[:1]
        return self.apply(OPERATORS[name], *map(self.value, args))

    def apply(self, operator: str, *inputs: str, name: str = "") -> str:
        output = name or f"t{len(self.nodes) + 1}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output]))
        return output

    def number(self, value: float) -> str:
        return self.initializer(f"c{len(self.initializers) + 1}", [value], ())

    def initializer(self, name: str, values: Sequence[float], shape: tuple[int, ...]) -> str:
        element = self.onnx.TensorProto.FLOAT
        self.initializers.append(self.onnx.helper.make_tensor(name, element, shape, values))
        return name

    def beta(self, name: str, values: tuple[float, ...]) -> str:
        """One value as it is, one a channel in the shape (C, 1, ...)."""
        after = (1,) * (self.source.dims - 2)
        shape = (len(values), *after) if len(values) > 1 else ()
        return self.initializer(name, values, shape)

    def sinc(self, u: str) -> str:
        """sin(u) / u, and 1 at 0."""
        one, zero = self.number(1.0), self.number(0.0)
        at_0 = self.apply("Equal", u, zero)
        divisor = self.apply("Where", at_0, one, u)
        return self.apply("Where", at_0, one, self.apply("Div", self.apply("Sin", u), divisor))

    def output(self, node: Node, reads_x: bool) -> None:
        """`node` as the model's y, in the shape of x."""
        value = self.value(node)
        if not reads_x:  # by itself it has no shape
            self.apply("Expand", value, self.apply("Shape", "x"), name="y")
        elif value in self.source.expr.inputs:
            self.apply("Identity", value, name="y")
        else:
            self.nodes[-1].output[0] = "y"


def _shape(dims: int) -> list[str]:
    """Names of the dimensions, which may have any size."""
    return ["N", "C", *(f"D{i}" for i in range(1, dims - 1))]
