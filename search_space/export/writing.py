"""Functions on primitives to text: a Language is a table of templates, one for each primitive.

A value that is used twice, or whose text has become long, gets a line and a name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from actsearch.search_space.export.lowering import CALL, Exported, Function
from actsearch.search_space.expression import Operand
from actsearch.search_space.kernels.program import LOGICAL, Node
from actsearch.search_space.operators import ATOM, PRODUCT, SIGN, SUM

CHOICE, COMPARISON = -1, 0  # binding weaker than a sum; the rest as in operators.py
LONG = 64  # characters


@dataclass(frozen=True)
class Form:
    """How a primitive is written: a template as in `Op.notation`, how strongly it binds, and the
    helper of the language that it calls."""

    template: str
    precedence: int = ATOM
    helper: str = ""


def calls(helper: str, arity: int = 1) -> Form:
    """A call of a function that is written before."""
    return Form(f"{helper}({', '.join(f'{{{i}}}' for i in range(arity))})", helper=helper)


ARITHMETIC = {
    "neg": Form("-{0.tight}", SIGN),
    "add": Form("{0.left} + {1.tight}", SUM),
    "sub": Form("{0.left} - {1.tight}", SUM),
    "mul": Form("{0.left} * {1.tight}", PRODUCT),
    "div": Form("{0.left} / {1.tight}", PRODUCT),
    "lt": Form("{0.tight} < {1.tight}", COMPARISON),
    "le": Form("{0.tight} <= {1.tight}", COMPARISON),
    "gt": Form("{0.tight} > {1.tight}", COMPARISON),
    "ge": Form("{0.tight} >= {1.tight}", COMPARISON),
    "eq": Form("{0.tight} == {1.tight}", COMPARISON),
}


@dataclass(frozen=True)
class Language:
    """`number` writes a constant, `array` one as an argument that must be an array. `form` may
    choose another row than the primitive's own. `spread` gives x's shape to what does not depend on
    x. `imports` pairs a statement with the prefix whose use needs it."""

    forms: Mapping[str, Form]
    helpers: Mapping[str, str]
    number: Callable[[float], str] = repr
    array: Callable[[float], str] | None = None
    form: Callable[[Node], str] = lambda node: node.name
    spread: Form | None = None
    imports: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Written:
    """The body of a function: named steps, the result, and the helpers that both call."""

    steps: Sequence[tuple[str, str]]
    result: str
    helpers: Sequence[str]


def written(function: Function, language: Language) -> Written:
    """One body, its steps in the order in which they can be computed."""
    uses = _uses(function.result)
    steps: list[tuple[str, str]] = []
    helpers: dict[str, None] = {}
    known: dict[Node, Operand] = {n: Operand(t, ATOM, 0) for n, t in function.parameters.items()}

    def operand(node: Node) -> Operand:
        if node not in known:
            made = text(node)
            again = uses[node] > 1 and node.name not in ("const", *LOGICAL)
            if node is not function.result and (again or len(made.text) > LONG):
                steps.append((f"t{len(steps) + 1}", made.text))
                made = Operand(steps[-1][0], ATOM, 0)
            known[node] = made
        return known[node]

    def text(node: Node) -> Operand:
        if node.name == "const":
            return _signed(language.number(node.value))
        name, args = simplified(node)
        if name.startswith(CALL):
            helper = name.removeprefix(CALL)
            return Operand(f"{helper}({', '.join(argument(a) for a in args)})", ATOM, 0)
        form = language.forms[language.form(node) if name == node.name else name]
        if form.helper:
            helpers[form.helper] = None
        arrays = name in ("maximum", "minimum") or (len(args) == 1 and form.precedence == ATOM)
        if arrays:
            operands = [Operand(argument(arg), ATOM, 0) for arg in args]
        else:
            operands = [operand(arg) for arg in args]
        placed = [Operand(o.text, o.precedence, form.precedence) for o in operands]
        return Operand(form.template.format(*placed), form.precedence, 0)

    def argument(node: Node) -> str:
        if node.name == "const" and language.array is not None:
            return language.array(node.value)
        return operand(node).text

    result = operand(function.result)
    spread = language.spread
    if spread is not None and "x" in function.parameters.values() and not function.reads("x"):
        result = Operand(result.text, result.precedence, spread.precedence)
        return Written(steps, spread.template.format(result), list(helpers))
    return Written(steps, result.text, list(helpers))


def simplified(node: Node) -> tuple[str, Sequence[Node]]:
    """A node's name and arguments as they are written: numbers where people put them, and softplus,
    which is traced as a choice, as one function of its argument and its threshold."""
    args = node.args
    if node.name == "where" and args[2].name == "log1p_exp":
        return "softplus", (args[1], args[0].args[0])
    if node.name == "mul":
        if args[1].args == (args[0], args[0]):
            return "mul", args[::-1]  # x * x * x
        first = {"const": 0, "beta": 1, "neg": 2}
        return "mul", sorted(args, key=lambda a: first.get(a.name, 3))
    if node.name == "add":
        return "add", sorted(args, key=lambda a: a.name == "const")
    if node.name in ("lt", "le") and args[0].name == "const":
        return {"lt": "gt", "le": "ge"}[node.name], args[::-1]
    return node.name, args


def _uses(result: Node) -> Counter[Node]:
    """How often each node is an argument."""
    uses: Counter[Node] = Counter()
    waiting = [result]
    while waiting:
        for arg in simplified(waiting.pop())[1]:
            uses[arg] += 1
            if uses[arg] == 1:
                waiting.append(arg)
    return uses


def _signed(text: str) -> Operand:
    return Operand(text, SIGN if text.startswith("-") else ATOM, 0)


# -- Python, in whichever dialect


def python_function(
    function: Function, language: Language, *, annotation: str = "", defaults: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """The text of a function, and the helpers of the language that it calls."""
    body = written(function, language)
    names = [f"{p}: {annotation}" if annotation else p for p in function.parameters.values()]
    equals = " = " if annotation else "="
    given = len(names) - len(defaults)
    names[given:] = [f"{n}{equals}{d}" for n, d in zip(names[given:], defaults, strict=True)]
    returns = f" -> {annotation}" if annotation else ""
    lines = [f"def {function.name}({', '.join(names)}){returns}:"]
    if function.about:
        lines.append(f'    """{function.about}"""')
    lines += [f"    {name} = {text}" for name, text in body.steps]
    return "\n".join([*lines, f"    return {body.result}"]), list(body.helpers)


@dataclass(frozen=True)
class Part:
    """What a source adds to a file: functions, the helpers of the language that they call, and
    constants."""

    source: Exported
    functions: Sequence[str]
    used: Iterable[str]
    constants: Sequence[str] = ()


def python_file(language: Language, parts: Sequence[Part], last: Sequence[str] = ()) -> str:
    """Docstring, imports, constants, the language's helpers in use, and the functions, those of
    several sources once; `last` stands behind them."""
    helpers = dict.fromkeys(name for part in parts for name in part.used)
    functions = dict.fromkeys(text for part in parts for text in part.functions)
    constants = [line for part in parts for line in part.constants]
    code = "\n\n\n".join([*(language.helpers[name] for name in helpers), *functions, *last])
    whole = "\n".join([*constants, code])
    imports = [s for s, prefix in language.imports if re.search(rf"\b{prefix}", whole)]
    header = headers([part.source for part in parts])
    docstring = "\n".join(['"""' + header[0], *header[1:], '"""'])
    head = [docstring, "\n".join(imports), "\n".join(constants)]
    return "\n\n".join(part for part in head if part) + f"\n\n\n{code}\n"


def headers(sources: Sequence[Exported]) -> Sequence[str]:
    """What a file says of itself: the first line of each function, the origin of all."""
    first = sources[0].header
    grammar = first[-1] if len(sources) == 1 else first[-1].rpartition(": ")[0] + ":"
    texts = [] if len(sources) == 1 else [f"  {source.expr}" for source in sources]
    return [*(source.header[0] for source in sources), *first[1:-1], grammar, *texts]


def constant(
    values: Sequence[float], brackets: str = "[]", number: Callable[[float], str] = repr
) -> str:
    """A beta's values: a number, or the numbers of all channels over several lines."""
    if len(values) == 1:
        return number(values[0])
    rows = [values[i : i + 8] for i in range(0, len(values), 8)]
    lines = ["    " + ", ".join(map(number, row)) + "," for row in rows]
    return "\n".join([brackets[0], *lines, brackets[1]])
