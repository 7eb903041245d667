"""Trackers: TensorBoard, Weights & Biases, MLflow, each in one module, told of a search alike."""
