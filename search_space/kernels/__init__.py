"""Activations as generated code: one kernel forward, one backward, saving only the input."""
