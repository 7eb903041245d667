"""STRATEGIES: every search strategy by name, written `name:option=value,...`, and `+halving` behind
any of them. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from actsearch.controller.scales import Scale, scale_of
from actsearch.controller.several import OfSeveral
from actsearch.controller.strategy import Strategy
from actsearch.controller.successive_halving import HalvingConfig, SuccessiveHalving
from actsearch.results.metrics import ACCURACY, Metric
from actsearch.search_space import text as options
from actsearch.search_space.text import check_among, load

if TYPE_CHECKING:
    from actsearch.search_space.space import Space


@dataclass(frozen=True)
class NoConfig:
    """No options."""


@dataclass(frozen=True)
class Row:
    """A strategy in a few words, its class, and that of its options, if it has any. Both by name,
    since importing them imports torch. One that is `scaled` is told the scale of rewards, since it
    does arithmetic with them. The options of one that is `batched` have `in_cohorts`, their usual
    values where successive halving trains cohorts. `several` is the class that searches with
    several aims, of the same options; "" where none does."""

    text: str
    cls: str
    options: str = ""
    scaled: bool = False
    batched: bool = False
    several: str = ""

    @property
    def config(self) -> type:
        """A dataclass whose fields have docstrings."""
        return load(self.options) if self.options else NoConfig

    def make(
        self,
        space: Space,
        seed: int,
        chosen: Mapping[str, Any],
        scale: Scale,
        halving: HalvingConfig | None = None,
    ) -> Strategy:
        config: Any = self.config(**chosen)
        if self.batched and halving is not None:
            config = config.in_cohorts(halving.cohort)
        options = (config,) if self.options else ()
        return load(self.cls)(space, seed, *options, *((scale,) if self.scaled else ()))

    def make_several(self, space: Space, seed: int, chosen: Mapping[str, Any]) -> OfSeveral:
        config = (self.config(**chosen),) if self.options else ()
        return load(self.several)(space, seed, *config)


STRATEGIES: Mapping[str, Row] = {
    "exhaustive": Row(
        "every candidate of the space once, in order",
        "actsearch.controller.exhaustive:Exhaustive",
        several="actsearch.controller.exhaustive:Exhaustive",
    ),
    "random": Row(
        "every candidate once, in random order",
        "actsearch.controller.random_search:RandomSearch",
        several="actsearch.controller.random_search:RandomSearch",
    ),
    "evolution": Row(
        "the best of a tournament becomes a parent, one digit of it changes, the oldest dies",
        "actsearch.controller.evolution:Evolution",
        "actsearch.controller.evolution:EvolutionConfig",
        several="actsearch.controller.nsga2:NSGA2",
    ),
    "surrogate": Row(
        "a model predicts rewards from the shapes of functions; the most promising is next",
        "actsearch.controller.surrogate:Surrogate",
        "actsearch.controller.surrogate:SurrogateConfig",
        several="actsearch.controller.parego:ParEGO",
    ),
    "ppo": Row(
        "the paper's method: an LSTM draws candidates and learns from their rewards by PPO",
        "actsearch.controller.ppo:PPO",
        "actsearch.controller.ppo:PPOConfig",
        scaled=True,
        batched=True,
    ),
}

HALVING = "halving"
EXTERNAL = "external"  # `external:COMMAND`: no strategy, but a command that proposes formulas


def strategy_from(text: str, space: Space, seed: int, metric: Metric = ACCURACY) -> Strategy:
    """A new strategy from `ppo`, `ppo:lr=0.001,mode=async` or `evolution+halving:eta=3`, for the
    rewards of `metric`.

    Raises ValueError for a name, an option or a value that is not known.
    """
    base, halving = _parts(text)
    name, chosen = _chosen(base)
    config = None if halving is None else HalvingConfig(**_halving_options(halving))
    strategy = STRATEGIES[name].make(space, seed, chosen, scale_of(metric), config)
    return strategy if config is None else SuccessiveHalving(strategy, config)


def several_from(text: str, space: Space, seed: int) -> OfSeveral:
    """The same for a search with several aims or limits; raises ValueError for a strategy that
    compares single scores too."""
    base, halving = _parts(text)
    name, chosen = (EXTERNAL, {}) if command_of(text) is not None else _chosen(base)
    if halving is not None or name == EXTERNAL or not STRATEGIES[name].several:
        what = name if halving is None else f"{name}+{HALVING}"
        can = ", ".join(known for known, row in STRATEGIES.items() if row.several)
        raise ValueError(
            f"the strategy {what} goes by one score, so with several objectives or --where choose "
            f"one of {can}"
        )
    return STRATEGIES[name].make_several(space, seed, chosen)


def command_of(text: str) -> str | None:
    """The command of `external:COMMAND`, None of a strategy."""
    name, command = options.split(text)
    return command.strip() if name == EXTERNAL else None


def normal(text: str, *, halving: bool = False) -> str:
    """`text` with its options in the order of their table, so that one strategy has one name;
    `halving` puts it behind."""
    if (command := command_of(text)) is not None:
        if not command or halving:
            wrong = "has no rungs, so leave out --halving" if halving else "needs a command"
            raise ValueError(f"{EXTERNAL} {wrong}, as {EXTERNAL}:'python my_proposer.py'")
        return f"{EXTERNAL}:{command}"
    base, wrapper = _parts(text)
    written = options.written(*_chosen(base))
    if wrapper is None and not halving:
        return written
    return written + "+" + options.written(HALVING, _halving_options(wrapper or ""))


def with_options(text: str, options_of: Mapping[str, Mapping[str, str]]) -> str:
    """`text` with the options that its strategy has in `options_of`, unless it says others."""
    base, plus, wrapper = text.partition("+")
    name, said = options.split(base)
    names = {part.partition("=")[0].strip() for part in said.split(",")}
    added = [f"{k}={v}" for k, v in options_of.get(name, {}).items() if k not in names]
    if not added:
        return text
    return f"{name}:{','.join([*filter(None, [said]), *added])}{plus}{wrapper}"


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
    if command_of(text) is not None:
        return text, None
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
    check_among("strategy", name, STRATEGIES)
    return name, _read(name, chosen, STRATEGIES[name].config)


def _halving_options(text: str) -> dict[str, Any]:
    return _read(HALVING, text, HalvingConfig)


def _read(owner: str, text: str, config: type) -> dict[str, Any]:
    known = {option.name: option.kind for option in _options(config)}
    chosen = options.read(owner, text, known)
    config(**chosen)  # raises where a value makes no sense
    defaults = asdict(config())
    return {key: value for key, value in chosen.items() if value != defaults[key]}


def options_of_strategy(name: str) -> list[options.Option]:
    """The options of a strategy, or of `halving`."""
    return _options(HalvingConfig if name == HALVING else STRATEGIES[name].config)


def _options(config: type) -> list[options.Option]:
    """The fields of a config class, with what each may be and its docstring."""
    hints, said = get_type_hints(config), options.docstrings(config)
    return [
        options.Option(
            f.name,
            get_args(hints[f.name]) if get_origin(hints[f.name]) else hints[f.name],
            f.default,
            said[f.name],
        )
        for f in fields(config)
    ]
