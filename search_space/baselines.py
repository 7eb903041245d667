"""Functions that people know by name, as formulas of our own grammar.

They are ordinary expressions, so whatever holds for a candidate holds for them: training, tables,
export, re-evaluation. `search_space/analysis/names.py` finds out whether a function is one of them.
"""

from __future__ import annotations

# fmt: off
# The paper's (Ramachandran et al. 2017, Section 5).
BASELINES: dict[str, str] = {
    "relu":     "relu(x)",
    "lrelu":    "max(x, 0.01*x)",
    "prelu":    "relu(x) + scale[0.25](min0(x))",  # He et al. 2015
    "softplus": "softplus(x)",
    "elu":      "relu(x) + (exp(min0(x)) - 1)",
    "selu":     "1.0507009873554805 * (relu(x) + 1.6732632423543772 * (exp(min0(x)) - 1))",
    "gelu":     "0.5*x * (1 + erf(0.7071067811865476*x))",
    "swish-1":  "x * sigmoid(x)",
    "swish":    "x * sigmoid(beta*x)",
}

# Later ones, and those of every library.
MODERN: dict[str, str] = {
    "silu":        "x * sigmoid(x)",                # the field's name of the paper's swish-1
    "relu2":       "relu(x)**2",                    # So et al. 2021 (Primer)
    "relu6":       "min(relu(x), 6)",               # Krizhevsky 2010
    "hardsigmoid": "min(relu(x + 3), 6) / 6",       # Howard et al. 2019, as the next one
    "hardswish":   "x * min(relu(x + 3), 6) / 6",
    "hardtanh":    "max(min(x, 1), -1)",            # Collobert 2004
    "softsign":    "x / (1 + abs(x))",
    "logsigmoid":  "-softplus(-x)",
    "tanhshrink":  "x - tanh(x)",
    "mish":        "x * tanh(softplus(x))",         # Misra 2019
    "snake":       "x + sin(x)**2",                 # Ziyin et al. 2020, with their a at 1
    "serf":        "x * erf(softplus(x))",          # Nag et al. 2021
    "telu":        "x * tanh(exp(x))",              # Fernandez and Mali 2024
    "golu":        "x * exp(-exp(-x))",             # Das et al. 2025
}

# Gates of two projections, x and g (Dauphin et al. 2016, Shazeer 2020).
GATES: dict[str, str] = {
    "glu":      "sigmoid(x) * g",
    "bilinear": "x * g",
    "reglu":    "relu(x) * g",
    "geglu":    "0.5*x * (1 + erf(0.7071067811865476*x)) * g",
    "swiglu":   "x * sigmoid(x) * g",
    "singlu":   "sin(x) * g",
}

NAMED: dict[str, str] = {**BASELINES, **MODERN, **GATES}

# The canonical form of each, so that reading a run finds its name without torch.
FORMS: dict[str, str] = {
    "relu(x)": "relu",
    "max(x, mul(0.01, x))": "lrelu",
    "add(relu(x), scale[0.25](min0(x)))": "prelu",
    "softplus(x)": "softplus",
    "add(relu(x), sub(exp(min0(x)), 1))": "elu",
    "mul(1.0507009873554805, add(relu(x), mul(1.6732632423543772, sub(exp(min0(x)), 1))))": "selu",
    "mul(mul(0.5, x), add(1, erf(mul(0.7071067811865476, x))))": "gelu",
    "mul(x, sigmoid(x))": "silu",
    "mul(x, sigmoid(scale(x)))": "swish",
    "square(relu(x))": "relu2",
    "min(6, relu(x))": "relu6",
    "mul(0.16666666666666666, min(6, relu(add(3, x))))": "hardsigmoid",
    "mul(0.16666666666666666, mul(x, min(6, relu(add(3, x)))))": "hardswish",
    "max(-1, min(1, x))": "hardtanh",
    "div(x, add(1, abs(x)))": "softsign",
    "neg(softplus(neg(x)))": "logsigmoid",
    "sub(x, tanh(x))": "tanhshrink",
    "mul(x, tanh(softplus(x)))": "mish",
    "add(x, square(sin(x)))": "snake",
    "mul(x, erf(softplus(x)))": "serf",
    "mul(x, tanh(exp(x)))": "telu",
    "mul(x, exp(neg(exp(neg(x)))))": "golu",
    # Gates have one name whichever input is which.
    "mul(sigmoid(x), g)": "glu",
    "mul(x, sigmoid(g))": "glu",
    "mul(x, g)": "bilinear",
    "mul(relu(x), g)": "reglu",
    "mul(x, relu(g))": "reglu",
    "mul(mul(mul(0.5, x), add(1, erf(mul(0.7071067811865476, x)))), g)": "geglu",
    "mul(x, mul(mul(0.5, g), add(1, erf(mul(0.7071067811865476, g)))))": "geglu",
    "mul(mul(x, sigmoid(x)), g)": "swiglu",
    "mul(x, mul(g, sigmoid(g)))": "swiglu",
    "mul(sin(x), g)": "singlu",
    "mul(x, sin(g))": "singlu",
}

# Other names that people type, and the operator or function each stands for.
SYNONYMS: dict[str, str] = {
    "arctan": "atan", "arcsinh": "asinh", "maximum": "max", "minimum": "min",
    "leaky_relu": "lrelu", "sig": "sigmoid", "id": "identity", "gaussian": "gauss",
    "squared_relu": "relu2", "relu_squared": "relu2", "hard_swish": "hardswish",
    "hard_sigmoid": "hardsigmoid", "hard_tanh": "hardtanh", "log_sigmoid": "logsigmoid",
}
# fmt: on
