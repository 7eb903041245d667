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

# Later claims, whose authors' numbers of arXiv or whose pull request stands beside them.
MODERN: dict[str, str] = {
    "silu":         "x * sigmoid(x)",                  # 1702.03118; the paper's swish-1
    "mish":         "x * tanh(softplus(x))",           # 1908.08681
    "serf":         "x * erf(softplus(x))",            # 2108.09598
    "relu2":        "relu(x)**2",                      # 2109.08668 (Primer)
    # 2411.13010: betas start at softplus^-1(0.8) and softplus^-1(0.8 - 0.5), so that alphas of both
    # sides start at 0.8; the one of the left stays above 0.5 and the other above 0.
    "xielu":        "0.5*x + softplus(beta[0.2033823208110246]) * relu(x)**2"
                    " + (0.5 + softplus(beta[-1.0502256128148468])) * (exp(min0(x)) - 1 - min0(x))",
    "telu":         "x * tanh(exp(x))",                # 2412.20269
    "golu":         "x * exp(-exp(-x))",               # 2502.03654
    "gelu_sinc":    "gelu(x) * (1 + 0.5*sinc(3.141592653589793*x))",  # 2602.05688
    "leaky_relu2":  "max(x, 0.5*x)**2",                # openai/parameter-golf#549
    "smooth_relu2": "0.5*x * (x + (x**2 + 0.04)**0.5)",  # karpathy/nanochat#828, its a at 0.2
}

# Those of every library, one that is periodic, and none at all: a network without a nonlinearity.
OTHERS: dict[str, str] = {
    "identity":    "x",
    "relu6":       "min(relu(x), 6)",               # Krizhevsky 2010
    "hardsigmoid": "min(relu(x + 3), 6) / 6",       # Howard et al. 2019, as the next one
    "hardswish":   "x * min(relu(x + 3), 6) / 6",
    "hardtanh":    "max(min(x, 1), -1)",            # Collobert 2004
    "softsign":    "x / (1 + abs(x))",
    "logsigmoid":  "-softplus(-x)",
    "tanhshrink":  "x - tanh(x)",
    "snake":       "x + sin(x)**2",                 # Ziyin et al. 2020, with their a at 1
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

NAMED: dict[str, str] = {**BASELINES, **MODERN, **OTHERS, **GATES}

# Sets of them that are asked for by one word.
GROUPS: dict[str, tuple[str, ...]] = {
    "paper": tuple(BASELINES),
    "modern": tuple(MODERN),
    "gates": tuple(GATES),
    "all": (*BASELINES, *MODERN),
}

# The canonical form of each, so that reading a run finds its name without torch.
FORMS: dict[str, str] = {
    "x": "identity",
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
    "mul(add(1, mul(0.5, sinc(mul(3.141592653589793, x)))), "
    "mul(mul(0.5, x), add(1, erf(mul(0.7071067811865476, x)))))": "gelu_sinc",
    "square(max(x, mul(0.5, x)))": "leaky_relu2",
    "mul(mul(0.5, x), add(x, sqrt(add(0.04, square(x)))))": "smooth_relu2",
    "add(add(mul(0.5, x), mul(softplus(beta[0.2033823208110246]), square(relu(x)))), "
    "mul(add(0.5, softplus(beta[-1.0502256128148468])), sub(sub(exp(min0(x)), 1), min0(x))))":
        "xielu",
}

# Other names that people type, and the operator or function each stands for.
SYNONYMS: dict[str, str] = {
    "arctan": "atan", "arcsinh": "asinh", "maximum": "max", "minimum": "min",
    "leaky_relu": "lrelu", "sig": "sigmoid", "id": "identity", "gaussian": "gauss",
    "squared_relu": "relu2", "relu_squared": "relu2", "leaky_relu_squared": "leaky_relu2",
    "hard_swish": "hardswish",
    "hard_sigmoid": "hardsigmoid", "hard_tanh": "hardtanh", "log_sigmoid": "logsigmoid",
}
# fmt: on
