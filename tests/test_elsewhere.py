"""Found functions in other libraries: act_layer() in models of timm, torchvision and transformers,
and formulas with the betas that training has left."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import actsearch
from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.search_space.activation import Activation
from actsearch.search_space.operators import Op
from actsearch.search_space.parser import parse

SWISH = "x * sigmoid(beta * x)"


def timm_model(name: str, **options: Any) -> nn.Module:
    import_torchvision()
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    return timm.create_model(name, num_classes=3, **options)


def vit(layer: type[nn.Module]) -> nn.Module:
    return timm_model("vit_tiny_patch16_224", img_size=32, depth=2, act_layer=layer)


def resnet(layer: type[nn.Module]) -> nn.Module:
    return timm_model("resnet10t", zero_init_last=False, act_layer=layer)


def mobilenet(layer: type[nn.Module]) -> nn.Module:
    return timm_model("mobilenetv2_035", act_layer=layer)


def torchvision_mlp(layer: type[nn.Module]) -> nn.Module:
    mlp = import_torchvision().ops.MLP(3 * 32 * 32, [16, 8, 3], activation_layer=layer)
    return nn.Sequential(nn.Flatten(), mlp)


def torchvision_convolutions(layer: type[nn.Module]) -> nn.Module:
    from functools import partial

    block = partial(import_torchvision().ops.Conv2dNormActivation, activation_layer=layer)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    return nn.Sequential(block(3, 4), block(4, 5, inplace=None), *head)


def learn(model: nn.Module, loss: Any) -> None:
    """One step with an optimiser that is made as soon as the model is; every layer's beta moves."""
    optimiser = torch.optim.SGD(model.parameters(), lr=10.0)
    betas = [beta for m in model.modules() if isinstance(m, Activation) for beta in m.beta]
    before = [beta.detach().clone() for beta in betas]
    assert betas
    loss().backward()
    optimiser.step()
    for old, new in zip(before, betas, strict=True):
        assert torch.isfinite(new).all()
        assert (new != old).any()


@pytest.mark.parametrize(
    "build", [vit, resnet, mobilenet, torchvision_mlp, torchvision_convolutions]
)
def test_an_act_layer_is_built_and_trained_by_timm_and_torchvision(build: Any) -> None:
    torch.manual_seed(0)
    model = build(actsearch.act_layer(SWISH))
    x = torch.randn(4, 3, 32, 32)
    assert not any(isinstance(m, (nn.ReLU, nn.ReLU6, nn.GELU)) for m in model.modules())
    learn(model, lambda: model(x).logsumexp(1).sum())


@pytest.mark.parametrize("channels", [None, 24])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_an_act_layer_is_an_entry_of_transformers_table(family: str, channels: int | None) -> None:
    import_torchvision()
    torch.manual_seed(0)
    reason = "transformers is not installed: pip install transformers"
    transformers = pytest.importorskip("transformers", reason=reason)
    from transformers.activations import ACT2FN

    ACT2FN["searched"] = actsearch.act_layer(SWISH, channels, channel_dim=-1)
    try:
        small = {"vocab_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
        if family == "bert":
            size = {"hidden_size": 12, "intermediate_size": 24}
            config = transformers.BertConfig(**small, **size, hidden_act="searched")
            model = transformers.BertModel(config)
        else:
            size = {"n_embd": 12, "n_inner": 24, "n_positions": 16}
            config = transformers.GPT2Config(**small, **size, activation_function="searched")
            model = transformers.GPT2Model(config)
    finally:
        del ACT2FN["searched"]
    found = [m for m in model.modules() if isinstance(m, Activation)]
    assert len(found) >= 2
    assert {a.beta[0].numel() for a in found} == {channels or 1}
    learn(model, lambda: model(torch.arange(10).view(2, 5)).last_hidden_state[..., 0].sum())


def test_betas_that_a_library_left_uninitialised_can_be_reset() -> None:
    with torch.device("meta"):
        empty = actsearch.act_layer("beta[0.25] * x + max(beta, x)")()
    made = empty.to_empty(device="cpu")
    with torch.no_grad():
        for beta in made.beta:
            beta.fill_(torch.nan)
    made.reset_parameters()
    assert [beta.tolist() for beta in made.beta] == [[0.25], [1.0]]
    assert all(beta.requires_grad for beta in made.beta)


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (2, 5, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("kernels", ["eager", "auto"])
def test_without_channels_a_layer_of_any_shape_has_one_beta(
    shape: tuple[int, ...], kernels: str
) -> None:
    layer = Activation(SWISH, kernels=kernels)
    [beta] = layer.parameters()
    assert beta.shape == (1,)
    with torch.no_grad():
        beta.fill_(-0.7)
    x = torch.linspace(-3, 4, max(1, torch.Size(shape).numel())).view(shape)
    x = x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x
    x.requires_grad_()
    y = layer(x)
    assert y.shape == x.shape
    assert y.stride() == x.stride()
    gate = 1 / (1 + torch.exp(0.7 * x.detach()))
    torch.testing.assert_close(y.detach(), x.detach() * gate)
    y.sum().backward()
    slope = x.detach() ** 2 * gate * (1 - gate)  # of x / (1 + exp(-beta x)), by hand
    torch.testing.assert_close(beta.grad, slope.sum().view(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", ["eager", "auto"])
@pytest.mark.parametrize("text", [SWISH, "max(x, 2) * sigmoid(beta_a * g) + beta_a * x"])
def test_torch_compiles_an_activation_without_a_break(
    text: str, kernels: str, dtype: torch.dtype
) -> None:
    layer = Activation(text, 4, channel_dim=-1, kernels=kernels).to(dtype)
    inputs = [
        torch.linspace(-2, 2, 12, dtype=dtype).view(3, 4).requires_grad_()
        for _ in range(layer.inputs)
    ]
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    gradients = []
    for called in (layer, compiled):
        y = called(*inputs)
        gradients.append((y, *torch.autograd.grad(y.sum(), [*inputs, *layer.parameters()])))
    torch.testing.assert_close(*gradients)


def test_torch_compiles_a_model_whose_activations_were_replaced() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))
    x = torch.randn(6, 3)
    actsearch.replace_activations(model, SWISH, example=x, match=nn.GELU)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def test_copies_of_an_act_layer_need_no_class_of_theirs() -> None:
    made = actsearch.act_layer(SWISH)(inplace=True)
    with torch.no_grad():
        made.beta[0].fill_(1.5)
    saved = io.BytesIO()
    torch.save(made.state_dict(), saved)
    saved.seek(0)
    loaded = actsearch.act_layer(SWISH)()
    loaded.load_state_dict(torch.load(saved))
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), loaded):
        assert isinstance(copied, Activation)
        assert copied.beta[0] is not made.beta[0]
        assert copied.formula() == "x * sigmoid(1.5 * x)"
        assert repr(copied) == repr(made)


def test_an_act_layer_that_cannot_be_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="unknown function 'sigmoidd'"):
        actsearch.act_layer("x * sigmoidd(x)")
    with pytest.raises(ValueError, match="unknown operator set 'plain'"):
        actsearch.act_layer(SWISH, operators="plain")


@pytest.mark.parametrize(
    "text",
    [SWISH, "x + beta", "max(beta, x)", "rbf(x, tanh(x))", "laplace(x, 1)", "x - beta * x",
     "mix(x, tanh(x))", "(beta * x)**2", "relu(x) + beta[0.25] * min0(x)", "sin(x + beta) * beta"],
)  # fmt: skip
@pytest.mark.parametrize("value", [1.375, -0.25, 0.0])
def test_a_formula_with_trained_betas_is_the_function_that_was_trained(
    text: str, value: float
) -> None:
    trained = Activation(text, channels=2).double()
    with torch.no_grad():
        for number, beta in enumerate(trained.beta):
            beta.fill_(value + number)
    written = actsearch.formula(trained)
    again = Activation(written).double()
    assert not list(again.parameters())
    x = torch.linspace(-4, 4, 40, dtype=torch.float64).view(20, 2)
    torch.testing.assert_close(again(x), trained(x).detach(), rtol=1e-12, atol=1e-12)


def test_a_formula_has_the_mean_of_betas_over_channels_to_four_digits() -> None:
    trained = Activation(SWISH, channels=3)
    with torch.no_grad():
        trained.beta[0].copy_(torch.tensor([1.0, 2.0, 1.12345]))
    assert actsearch.formula(trained) == "x * sigmoid(1.374 * x)"
    assert actsearch.formula(parse(SWISH)) == SWISH


def test_a_users_operator_keeps_its_beta_and_starts_where_training_ended() -> None:
    power = Op("power", 1, lambda x, beta: x * x.abs() ** beta, beta=1.0)
    trained = Activation(parse("power(x) + beta", [power]), channels=2)
    with torch.no_grad():
        trained.beta[0].fill_(0.5)
        trained.beta[1].fill_(2.0)
    assert trained.formula() == "power[0.5](x) + 2"
    again = Activation(parse(trained.formula(), [power]), channels=2)
    assert [float(b.detach().mean()) for b in again.beta] == [0.5]


def test_no_channels_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="channels=0 is too small"):
        Activation("x * sigmoid(beta * x)", channels=0)
