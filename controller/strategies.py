"""STRATEGIES: every search strategy by name, written `name:option=value,...`, and `+halving` behind
any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

from actsearch.controller.evolution import Evolution, EvolutionConfig
from actsearch.controller.exhaustive import Exhaustive
from actsearch.controller.ppo import PPO, PPOConfig
from actsearch.controller.random_search import RandomSearch
from actsearch.controller.scales import Scale, scale_of
from actsearch.controller.strategy import Strategy
from actsearch.controller.successive_halving import HalvingConfig, SuccessiveHalving
from actsearch.controller.surrogate import Surrogate, SurrogateConfig
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.search_space import options
from actsearch.search_space.operators import unknown
from actsearch.search_space.space import Space


@dataclass(frozen=True)
class NoConfig:
    """No options."""


@dataclass(frozen=True)
class Row:
    """How a strategy is made: (space, seed, config, scale) -> Strategy; and its config's class."""

    make: Callable[[Space, int, Any, Scale], Strategy]
    config: type = NoConfig


STRATEGIES: Mapping[str, Row] = {
    "exhaustive": Row(lambda space, seed, config, scale: Exhaustive(space, seed)),
    "random": Row(lambda space, seed, config, scale: RandomSearch(space, seed)),
    "evolution": Row(
        lambda space, seed, config, scale: Evolution(space, seed, config), EvolutionConfig
    ),
    "surrogate": Row(Surrogate, SurrogateConfig),
    "ppo": Row(PPO, PPOConfig),
}

HALVING = "halving"


def strategy_from(text: str, space: Space, seed: int, metric: Metric = ACCURACY) -> Strategy:
    """A new strategy from `ppo`, `ppo:lr=0.001,mode=async` or `evolution+halving:eta=3`, for the
    rewards of `metric`.

    Raises ValueError for a name, an option or a value that is not known.
    """
    base, halving = _parts(text)
    name, chosen = _chosen(base)
    row = STRATEGIES[name]
    strategy = row.make(space, seed, row.config(**chosen), scale_of(metric))
    if halving is None:
        return strategy
    return SuccessiveHalving(strategy, HalvingConfig(**_halving_options(halving)))


def normal(text: str, *, halving: bool = False) -> str:
    """`text` with its options in the order of their table, so that one strategy has one name;
    `halving` puts it behind."""
    base, wrapper = _parts(text)
    written = options.written(*_chosen(base))
    if wrapper is None and not halving:
        return written
    return written + "+" + options.written(HALVING, _halving_options(wrapper or ""))


def rungs(text: str) -> HalvingConfig | None:
    """The cohorts of a strategy with `+halving`, None without."""
    halving = _parts(text)[1]
    return None if halving is None else HalvingConfig(**_halving_options(halving))


def short(text: str) -> str:
    """The strategy's name without options, such as `ppo-halving`."""
    base, halving = _parts(text)
    return options.split(base)[0] + ("" if halving is None else f"-{HALVING}")


def _parts(text: str) -> tuple[str, str | None]:
    """The strategy, and the options of `+halving` if it has that."""
    base, plus, wrapper = text.replace(" ", "").partition("+")
    if not plus:
        return base, None
    name, chosen = options.split(wrapper)
    if name != HALVING:
        raise ValueError(f"+{name} is not known behind a strategy; +{HALVING} is")
    return base, chosen


def _chosen(text: str) -> tuple[str, dict[str, Any]]:
    """(name, options); options at their default are left out."""
    name, chosen = options.split(text)
    if name not in STRATEGIES:
        raise ValueError(unknown("strategy", name, STRATEGIES))
    return name, _read(name, chosen, STRATEGIES[name].config)


def _halving_options(text: str) -> dict[str, Any]:
    return _read(HALVING, text, HalvingConfig)


def _read(owner: str, text: str, config: type) -> dict[str, Any]:
    chosen = options.read(owner, text, kinds(config))
    config(**chosen)  # raises where a value makes no sense
    defaults = asdict(config())
    return {key: value for key, value in chosen.items() if value != defaults[key]}


def kinds(config: type) -> dict[str, options.Kind]:
    """The options of a config class, with what each may be."""
    hints = get_type_hints(config)
    return {
        f.name: get_args(hints[f.name]) if get_origin(hints[f.name]) else hints[f.name]
        for f in fields(config)
    }
