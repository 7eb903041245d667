"""Children from the zoos of other packages: `torchvision:NAME` and `timm:NAME`.

The model is built with random weights and then run once on blank images, and what it calls as
activations gives way to the candidate (replacement.py). Gates, such as the sigmoid of
squeeze-and-excitation, stay.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models.data.torchvision_import import import_torchvision
from actsearch.child_models.networks.image_network import Size
from actsearch.child_models.networks.replacement import (
    ACTIVATIONS,
    Match,
    NoActivationError,
    making,
    put_activations,
)

TIMM_ACTIVATIONS = ("GELU", "GELUTanh", "QuickGELU", "PReLU", "Swish", "Mish", "HardSwish",
                    "HardMish")  # fmt: skip

# Where a model has arguments of its own: the beginning of its name, and they for a side in pixels.
ARGUMENTS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "inception_v3": lambda side: {"aux_logits": False, "init_weights": True},
    "googlenet": lambda side: {"aux_logits": False, "init_weights": True},
    "vit_": lambda side: {"image_size": side},
    "maxvit_": lambda side: {"input_size": (side, side)},
}
SIDES = (16, 24, 32, 48, 64, 75, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)


class Zoo(Protocol):
    def names(self) -> list[str]:
        """Of the models that classify images."""
        ...

    def model(self, name: str, classes: int, side: int) -> nn.Module:
        """(N, 3, side, side) -> (N, classes), with random weights."""
        ...

    def activations(self) -> tuple[Match, ...]:
        """What gives way to the candidate."""
        ...


class Torchvision:
    def names(self) -> list[str]:
        models = import_torchvision().models
        return models.list_models(module=models)

    def model(self, name: str, classes: int, side: int) -> nn.Module:
        given: dict[str, Any] = {}
        for beginning, arguments in ARGUMENTS.items():
            if name.startswith(beginning):
                given |= arguments(side)
        return import_torchvision().models.get_model(
            name, weights=None, num_classes=classes, **given
        )

    def activations(self) -> tuple[Match, ...]:
        return ACTIVATIONS


class Timm:
    def names(self) -> list[str]:
        return _timm().list_models()

    def model(self, name: str, classes: int, side: int) -> nn.Module:
        timm = _timm()
        about = timm.models.get_pretrained_cfg(name)
        given = {"img_size": side} if about is not None and about.fixed_input_size else {}
        return timm.create_model(name, pretrained=False, num_classes=classes, **given)

    def activations(self) -> tuple[Match, ...]:
        own = _timm().layers.activations
        return (*ACTIVATIONS, *(getattr(own, n) for n in TIMM_ACTIVATIONS if hasattr(own, n)))


def _timm() -> Any:
    import_torchvision()  # timm imports it too, but not in the way that works beside any torch
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ModuleNotFoundError(
            "children timm:NAME need the package timm, which is not installed: "
            "python -m pip install timm",
            name="timm",
        ) from None
    return timm


ZOOS: dict[str, Zoo] = {"torchvision": Torchvision(), "timm": Timm()}


def zoo_model(zoo: str, name: str) -> ZooModel:
    """A builder of the model; raises ValueError for a name that the zoo does not have, and
    ModuleNotFoundError where the zoo is not installed."""
    names = ZOOS[zoo].names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"unknown model {name!r} of {zoo}; {hint}It has {len(names)} that classify images, "
            f"for example {zoo}:resnet18"
        )
    return ZooModel(zoo, name)


@dataclass(frozen=True)
class ZooModel:
    """Builds a model of a zoo for images (1 or 3, H, W), which are resized to `size` by `size`
    first if it is given.

    `make_activation(width)` is called for channels in dimension 1, `make_activation(width,
    channel_dim=-1)` for channels in the last. Raises ValueError where the model cannot take such
    images, does not return logits, or has no activation.
    """

    zoo: str
    name: str

    def __str__(self) -> str:
        return f"{self.zoo}:{self.name}"

    def __call__(
        self,
        make_activation: Callable[..., nn.Module],
        *,
        input_shape: tuple[int, ...],
        classes: int,
        size: Size = None,
    ) -> nn.Module:
        if len(input_shape) != 3 or input_shape[0] not in (1, 3):
            raise ValueError(
                f"{self} takes images (C, H, W), grey or of 3 channels, not inputs of shape "
                f"{input_shape}"
            )
        side = size or max(input_shape[1:])
        try:
            model = OnImages(ZOOS[self.zoo].model(self.name, classes, side), size)
            put_activations(
                model,
                making(str(self), make_activation),
                torch.zeros(2, *input_shape),
                match=ZOOS[self.zoo].activations(),
                check=lambda output: self._check(output, classes),
            )
        except NoActivationError:
            kinds = ", ".join(kind.__name__ for kind in ACTIVATIONS if isinstance(kind, type))
            raise ValueError(
                f"{self} calls none of the activations that a candidate replaces ({kinds}); "
                "choose another model"
            ) from None
        except Exception as error:
            shape = (size, size) if size else input_shape[1:]
            better = None if self._takes(shape) else self._smallest(side)
            if better is None:
                raise
            given = " x ".join(map(str, shape))
            raise ValueError(
                f"{self} cannot take images of {given} ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:120]}); use {self}:size={better}"
            ) from error
        return model

    def _check(self, output: Any, classes: int) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != (2, classes):
            raise ValueError(
                f"{self} returns {shape} for 2 images and {classes} classes, and a child has to "
                f"return logits of shape (2, {classes}); choose another model"
            )

    def _takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the model itself runs on images of this shape; without memory and arithmetic."""
        try:
            with torch.no_grad():
                self._without_memory(max(shape))(torch.zeros(2, 3, *shape, device="meta"))
        except Exception:
            return False
        return True

    def _without_memory(self, side: int) -> nn.Module:
        try:
            with torch.device("meta"):
                return ZOOS[self.zoo].model(self.name, 2, side)
        except (RuntimeError, NotImplementedError):  # as RegNet, which reads widths from a tensor
            return ZOOS[self.zoo].model(self.name, 2, side).to("meta")

    def _smallest(self, side: int) -> int | None:
        """The next size that the model takes."""
        return next((s for s in SIDES if s > side and self._takes((s, s))), None)


class OnImages(nn.Module):
    """`model` on images of any size, grey ones too. `size`: they are resized to it first."""

    def __init__(self, model: nn.Module, size: int | None) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1 or 3, H, W) -> (N, classes)."""
        if self.size is not None:
            side = (self.size, self.size)
            x = F.interpolate(x, side, mode="bilinear", align_corners=False, antialias=True)
        if x.shape[1] == 1:
            x = x.repeat(1, 3, 1, 1)
        return self.model(x)
