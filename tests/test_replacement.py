"""A function in the place of a model's activations: own small models, and torchvision's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import actsearch
from child_models.replacement import Site
from child_models.torchvision_import import import_torchvision
from search_space.activation import Activation

SWISH = "x * sigmoid(beta * x)"


class Shared(nn.Module):
    """One ReLU, called with three widths, as in a torchvision bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = self.again = nn.ReLU()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 3)])
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.layers[0](x))
        x = self.again(self.layers[1](x))
        return self.drop(self.norm(self.relu(self.layers[2](x))))


def widths(model: nn.Module) -> list[int]:
    return [m.channels for m in model.modules() if isinstance(m, Activation)]


def test_each_call_has_parameters_of_its_own_and_of_its_width() -> None:
    model = Shared()
    assert actsearch.replace_activations(model, SWISH, torch.randn(2, 3, 9, 9)) == 3
    assert widths(model) == [4, 6, 8]
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    betas = [p for n, p in model.named_parameters() if "beta" in n]
    assert [tuple(b.shape) for b in betas] == [(4,), (6,), (8,)]
    for _ in range(3):  # calls are counted anew in each pass
        model(torch.randn(2, 3, 9, 9)).square().sum().backward()
    assert all(b.grad is not None and bool(b.grad.abs().sum() > 0) for b in betas)


def test_relu_in_the_place_of_relu_changes_nothing() -> None:
    model = Shared().eval()
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    actsearch.replace_activations(model, "relu(x)", x)
    torch.testing.assert_close(model(x), before)
    assert not model.training
    assert not any(m.training for m in model.modules())


def test_statistics_and_randomness_are_left_alone() -> None:
    model = Shared()
    state = {n: b.clone() for n, b in model.named_buffers()}
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    actsearch.replace_activations(model, SWISH, torch.ones(2, 3, 9, 9))
    assert torch.equal(torch.randn(2), expected)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, state[name])
    assert all(m.training for m in model.modules())


def test_a_pass_that_was_broken_off_does_not_shift_the_next() -> None:
    model = Shared()
    actsearch.replace_activations(model, SWISH, torch.randn(2, 3, 9, 9))
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3, 5, 5))  # too small for the third convolution
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 8, 3, 3)


def test_a_copy_of_the_model_counts_for_itself() -> None:
    model = Shared().eval()
    x = torch.randn(2, 3, 9, 9)
    actsearch.replace_activations(model, SWISH, x)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x))
    sites = [next(m for m in each.modules() if isinstance(m, Site)) for each in (model, twin)]
    assert sites[0] is not sites[1]
    twin.load_state_dict(model.state_dict())


def test_channels_may_be_last() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 2))
    x = torch.randn(2, 4, 5)
    assert actsearch.replace_activations(model, SWISH, x, match=nn.GELU, channel_dim=-1) == 1
    assert widths(model) == [7]
    assert model(x).shape == (2, 4, 2)


def test_a_model_without_such_modules_is_told_what_it_has() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.SiLU())
    with pytest.raises(ValueError, match=r"no ReLU to replace; its modules are Linear, SiLU"):
        actsearch.replace_activations(model, SWISH, torch.randn(2, 5))


@pytest.mark.parametrize(
    ("name", "types", "calls"),
    [("resnet50", nn.ReLU, 49), ("mobilenet_v2", nn.ReLU6, 35), ("vgg11", nn.ReLU, 10)],
)
def test_models_of_torchvision_are_replaced_and_take_a_step(
    name: str, types: type[nn.Module], calls: int
) -> None:
    models = import_torchvision().models
    model = getattr(models, name)(num_classes=4)
    x = torch.randn(2, 3, 64, 64)
    assert actsearch.replace_activations(model, SWISH, x, match=types, kernels="auto") == calls
    model(x).logsumexp(1).sum().backward()
    for module in model.modules():
        if isinstance(module, Activation):
            assert module.beta[0].grad is not None
