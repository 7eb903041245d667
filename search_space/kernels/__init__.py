"""Activations as generated code: a kernel forward and one backward, saving only the input."""
