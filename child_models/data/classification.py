"""Classification on a device: loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models import turns
from actsearch.child_models.data.data import not_finite
from actsearch.child_models.data.examples import Batch, Examples, Labelled, laid_out
from actsearch.child_models.device import autocast, memory_format
from actsearch.child_models.recipe import Recipe

MOST_UNANSWERED = 0.5  # of the examples, else a model has not learnt anything that could be scored


def _softmax(logits: torch.Tensor, y: torch.Tensor, smoothing: float) -> torch.Tensor:
    return F.cross_entropy(logits, y, label_smoothing=smoothing)


def _sigmoid(logits: torch.Tensor, y: torch.Tensor, smoothing: float) -> torch.Tensor:
    targets = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    targets = targets * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
}


def loss(model: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """The recipe's loss on inputs and labels that are on the model's device."""
    x, y = batch
    with autocast(recipe, x.device):
        logits = model(laid_out(x, memory_format(model)))
        return LOSSES[recipe.loss](logits, y, recipe.label_smoothing)


@torch.no_grad()
def accuracy(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe,
    split: str,
    beat: Callable[[], None],
) -> float:
    """The share that `model` classifies right of all the examples in `batches`. An example whose
    logits are not all finite is not answered, which is wrong: with a steep function a few images
    can overflow in a network that classifies the others well. Raises Diverged where more than half
    are not answered. Nothing waits for a GPU before the end."""
    model.eval()
    layout = memory_format(model)
    examples, right, answered = 0, torch.tensor(0), torch.tensor(0)
    for x, y in batches:
        with autocast(recipe, x.device):
            logits = model(laid_out(x, layout))
        finite = torch.isfinite(logits).all(1)
        right = right.to(x.device) + ((logits.argmax(1) == y) & finite).sum()
        answered = answered.to(x.device) + finite.sum()
        examples += len(y)
        beat()
    turns.wait()
    if int(answered) < examples * (1 - MOST_UNANSWERED):
        raise not_finite("logits", split)
    return int(right) / examples


class Classification:
    """A Dataset on a device, and what a child is trained for on it."""

    def __init__(self, data: Labelled, device: torch.device) -> None:
        self.device = device
        self.examples = Examples(data, device)
        self.splits = self.examples.splits

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Batch]:
        return self.examples.batches(recipe, seed, start)

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        return loss(model, batch, recipe)

    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float:
        """The accuracy on `split`, or on its first `examples`."""
        return accuracy(model, self.examples.evaluated(split, examples), recipe, split, beat)
