"""Options: fields of frozen dataclasses that say what they may be.

A field is `Annotated[type, kind]`, and its docstring is its help. Its kind checks the value when
the dataclass is made, so the command line and Python are told the same, before anything starts.
Neither torch nor the command line is known here.
"""

from __future__ import annotations

import math
import os
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints

from actsearch.search_space.text import check_among, docstrings, load

LARGEST = 2**63 - 1  # that SQLite keeps


class Kind(Protocol):
    """What an option may be. `metavar` stands for its value in help."""

    @property
    def metavar(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]:
        """What `{names}` in its help stands for."""
        ...

    def read(self, word: str) -> Any:
        """A word of the command line as a value; a word that cannot be read stays what it is, and
        `check` refuses it."""
        ...

    def check(self, option: str, value: Any) -> None:
        """Raises ValueError, with a way out, for a value that cannot be."""
        ...


@dataclass(frozen=True)
class Word:
    """Any text. `known` is the home of the table with the names that it may begin with; who reads
    the text checks it by the same table."""

    known: str = ""
    metavar: str = "TEXT"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(load(self.known)) if self.known else ()

    def read(self, word: str) -> str:
        return word

    def check(self, option: str, value: Any) -> None:
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"{option} {value!r} must be text")


@dataclass(frozen=True)
class Folder:
    """The folder of a run."""

    metavar: str = "RUN"
    names: tuple[str, ...] = ()

    def read(self, word: str) -> str:
        return word

    def check(self, option: str, value: Any) -> None:
        Word().check(option, value)
        if value == "":
            raise ValueError("RUN is empty; leave it out, or name a folder")


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` on, or one of the `names`."""

    least: int = 1
    names: tuple[str, ...] = ()

    @property
    def metavar(self) -> str:
        return "|".join(("INT", *self.names))

    def read(self, word: str) -> int | str:
        try:
            return int(word)
        except ValueError:
            return word

    def check(self, option: str, value: Any) -> None:
        if value in self.names:
            return
        if not isinstance(value, int) or isinstance(value, bool):
            words = "".join(f", or {name}" for name in self.names)
            raise ValueError(f"{option} {value!r} must be a whole number, such as 8{words}")
        if value < self.least:
            raise ValueError(f"{option} {value} is too small; use {self.least} or more")
        if value > LARGEST:
            raise ValueError(f"{option} {value} is too large; use {LARGEST} or less")


@dataclass(frozen=True)
class Positive:
    """A finite number above 0, or 0 too."""

    metavar: str = "FLOAT"
    names: tuple[str, ...] = ()
    zero: bool = False

    def read(self, word: str) -> float | str:
        try:
            return float(word)
        except ValueError:
            return word

    def check(self, option: str, value: Any) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{option} {value!r} must be a number, such as 0.1")
        if not 0 < value < math.inf and not (self.zero and value == 0):
            least = "of 0 or more" if self.zero else "above 0"
            raise ValueError(f"{option} {value:g} must be a number {least}")


@dataclass(frozen=True)
class OneOf:
    """A name of a table, whose home this is, or one of `also`."""

    table: str = ""
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.also, *(load(self.table) if self.table else ()))

    @property
    def metavar(self) -> str:
        shown = self.names if len(self.names) < 5 else (*self.names[:2], "...")
        return "|".join(shown)

    def read(self, word: str) -> str:
        return word

    def check(self, option: str, value: Any) -> None:
        check_among(option, value, self.names)


@dataclass(frozen=True)
class Listed(Word):
    """Several in one text, with commas between them: any words, or names of the table whose home
    `table` is; from Python those may be a list, too. An option of these may be said more than
    once."""

    table: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(load(self.table)) if self.table else super().names

    def check(self, option: str, value: Any) -> None:
        if not self.table:
            super().check(option, value)
            return
        for name in listed(value):
            check_among(option, name, self.names)


def listed(value: Any) -> tuple[Any, ...]:
    """The names that an option of these has, each once."""
    if value is None:
        return ()
    found = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(found if isinstance(found, (list, tuple)) else [found]))


@dataclass(frozen=True)
class Switch:
    """Whether to do something: a flag without a value."""

    metavar: str = ""
    names: tuple[str, ...] = ()

    def read(self, word: str) -> str:
        return word

    def check(self, option: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{option} {value!r} must be True or False")


@dataclass(frozen=True)
class Typed:
    """How an option is typed where not as `--name METAVAR`: in a `place` of its own, by a `short`
    name, too, or with another metavar."""

    place: str = ""
    short: str = ""
    metavar: str = ""


RunFolder = Annotated[str | None, Folder(), Typed(place="[RUN]")]
Text = Annotated[str | None, Word()]
Int = Annotated[int | None, Whole()]
Float = Annotated[float | None, Positive()]
FloatOrZero = Annotated[float | None, Positive(zero=True)]
Count = Annotated[int, Whole()]
Flag = Annotated[bool, Switch()]
OnOff = Annotated[str | None, OneOf(also=("on", "off"))]
AutoOnOff = Annotated[str | None, OneOf(also=("auto", "on", "off"))]
IntOrAuto = Annotated[int | str | None, Whole(names=("auto",))]
Texts = Annotated[tuple[str, ...], Word(metavar="TEXT ...")]
Formulas = Annotated[tuple[str, ...], Word(metavar="FORMULA ...")]
OperatorSet = Annotated[str | None, OneOf("actsearch.search_space.text:OPERATOR_SETS")]
Format = Annotated[str, OneOf("actsearch.results.tables:FORMATS"), Typed(short="-f")]


@dataclass(frozen=True)
class Option:
    """A field as it is typed and checked."""

    name: str
    kind: Kind
    typed: Typed
    several: bool
    default: Any
    required: bool

    @property
    def flag(self) -> str:
        """Its name on the command line; of one with a place of its own what stands for it."""
        return self.typed.place.strip("[]") or f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        return self.typed.place or self.typed.metavar or self.kind.metavar

    def check(self, value: Any) -> None:
        if value is None and self.default is None:
            return
        if not self.several:
            self.kind.check(self.flag, value)
            return
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{self.flag} {value!r} must be a list, such as [{value!r}]")
        for one in value:
            self.kind.check(self.flag, one)


@dataclass(frozen=True)
class Options:
    """Options that are checked when they are made."""

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            option.check(getattr(self, option.name))


@cache
def options_of(config: type[Options]) -> tuple[Option, ...]:
    """The fields of a class of options, in order."""
    hints = get_type_hints(config, include_extras=True)
    return tuple(_option(f.name, hints[f.name], f.default) for f in fields(config))


def _option(name: str, hint: Any, default: Any) -> Option:
    of, kind, *rest = get_args(hint)
    typed = rest[0] if rest else Typed()
    return Option(name, kind, typed, get_origin(of) is tuple, default, default is MISSING)


def helps(config: type[Options]) -> dict[str, str]:
    """The help of each option: its docstring, with the names that it may have for `{names}`."""
    said = docstrings(config)
    return {
        option.name: said[option.name].replace("{names}", either(option.kind.names))
        for option in options_of(config)
    }


def either(names: tuple[str, ...]) -> str:
    """Such as `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
