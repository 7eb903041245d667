"""The paper's baselines as formulas of our own grammar (facts: Ramachandran et al. 2017, Section
5).

They are ordinary expressions, so whatever holds for a candidate holds for them: training, tables,
export, re-evaluation.
"""

from __future__ import annotations

# fmt: off
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

# Other names that people type, and the operator or baseline each stands for.
SYNONYMS: dict[str, str] = {
    "arctan": "atan", "arcsinh": "asinh", "maximum": "max", "minimum": "min", "silu": "swish-1",
    "leaky_relu": "lrelu", "sig": "sigmoid", "id": "identity", "gaussian": "gauss",
}
# fmt: on
