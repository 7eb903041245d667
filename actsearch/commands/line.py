"""From words to a command's options. tyro cuts the words and shows the help; what options may be is
checked where they are declared, so each error is one sentence."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, make_dataclass
from functools import cache
from typing import Annotated, Any

import tyro
import tyro.constructors

from actsearch.options import Listed, Option, Options, Switch, helps, options_of
from actsearch.search_space.text import nearest, unknown

# What a formula that starts with a minus looks like, such as -x**2 or -abs(x); an option does not.
_NEGATIVE = re.compile(r"-\s*(\(|x\b|beta\b|[\d.]+\s*\*|[a-z_][a-z_0-9]*\().*")
_UNSAID = object()


def read_command(argv: Sequence[str] | None, configs: Mapping[str, type[Options]]) -> Any:
    """The options of the command in `argv` (sys.argv[1:] if None). Raises ValueError, with a
    sentence; `--help` is shown and ends the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        raise ValueError("a command is missing, such as search; 'actsearch --help' lists them")
    name = words.pop(0)
    if name not in configs:
        raise ValueError(unknown("command", name, configs))
    config = configs[name]
    words = [f"({word})" if _NEGATIVE.fullmatch(word) else word for word in words]
    _check_flags(name, config, words)
    words = _gathered(config, words)
    said, beyond = tyro.cli(
        _parsed(config), prog=f"actsearch {name}", args=words, return_unknown_args=True
    )
    if beyond:
        raise ValueError(f"{name} does not take {beyond[0]!r}; {_more(name)}")
    return config(**dict(_values(name, config, said)))


def _more(name: str) -> str:
    return f"'actsearch {name} --help' says what it takes"


def _check_flags(name: str, config: type[Options], words: Sequence[str]) -> None:
    """Raises ValueError for an option that the command does not have, and for one without the value
    that it needs."""
    flags = [option for option in options_of(config) if not option.typed.place]
    known = {option.flag: option for option in flags}
    known |= {option.typed.short: option for option in flags if option.typed.short}
    for word, following in zip(words, [*words, None][1:], strict=True):
        flag, equals, _ = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        if flag in ("-h", "--help"):
            return
        option = known.get(flag)
        if option is None and flag.startswith("--"):
            raise ValueError(f"unknown option {flag!r}{nearest(flag, known)} {_more(name)}")
        alone = following is None or following.startswith("--")
        if option is not None and not equals and alone and _takes_one(option):
            raise ValueError(f"{flag} needs a value: {_typed(option)}")


def _gathered(config: type[Options], words: Sequence[str]) -> list[str]:
    """With all that is said of an option in one place, since tyro takes what is said last:
    `--track a --track b` is `--track a,b`, and `--start a --start b` is `--start a b`."""
    several = {o.flag for o in options_of(config) if o.several and not o.typed.place}
    listed = {o.flag for o in options_of(config) if isinstance(o.kind, Listed)}
    rest: list[str] = []
    said: dict[str, list[str]] = {}
    flag = ""  # whose words come
    for word in words:
        name, equals, value = word.partition("=")
        if name in several | listed:
            said.setdefault(name, []).extend([value] if equals else [])
            flag = "" if equals else name  # `--start=a` takes this one alone
        elif word.startswith("-"):
            flag = ""
            rest.append(word)
        else:
            (said[flag] if flag else rest).append(word)
            flag = "" if flag in listed else flag
    for flag, of_flag in said.items():
        rest += [flag, ",".join(of_flag)] if flag in listed else [flag, *of_flag]
    return rest


def _takes_one(option: Option) -> bool:
    return not option.several and not isinstance(option.kind, Switch)


def _values(name: str, config: type[Options], said: Any) -> Iterator[tuple[str, Any]]:
    """What was said, as values; raises ValueError where something that is needed was not."""
    for option in options_of(config):
        value = getattr(said, option.name)
        if value is not _UNSAID:
            read = option.kind.read
            words = tuple(map(read, value)) if option.several else value
            yield option.name, read(words) if isinstance(words, str) else words
        elif option.required:
            raise ValueError(f"{name} needs {_typed(option)}; {_more(name)}")


@cache
def _parsed(config: type[Options]) -> type:
    """What tyro is to read: the same fields, of words, with their help."""
    said = helps(config)
    cls = make_dataclass(
        config.__name__,
        [
            (o.name, _annotated(o, said[o.name]), field(default=_default(o)))
            for o in options_of(config)
        ],
    )
    cls.__doc__ = _wrapped(inspect.cleandoc(config.__doc__ or ""))
    return cls


def _default(option: Option) -> Any:
    """What tyro shows; where it says nothing, the config's own default stands."""
    return option.default if _tells(option) or option.default is False else _UNSAID


def _tells(option: Option) -> bool:
    """Whether a default says something."""
    empty = option.default in (None, (), "") or option.default is False
    return not option.required and not empty


def _typed(option: Option) -> str:
    return option.metavar if option.typed.place else f"{option.flag} {option.metavar}"


def _annotated(option: Option, text: str) -> Any:
    hint: dict[str, Any] = {} if _tells(option) else {"help_behavior_hint": ""}
    aliases = [option.typed.short] if option.typed.short else None
    marks: list[Any] = [tyro.conf.Positional] if option.typed.place else []
    if isinstance(option.kind, Switch):
        return Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=text, **hint)]
    marks.append(tyro.conf.arg(help=text, metavar=option.metavar, aliases=aliases, **hint))
    return Annotated[Any, *marks, _several(option.metavar) if option.several else _one(option)]


def _one(option: Option) -> Any:
    return _spec(1, option.metavar, lambda words: words[0])


def _several(metavar: str) -> Any:
    return _spec("*", metavar, tuple)


def _spec(nargs: Any, metavar: str, read: Callable[[list[str]], Any]) -> Any:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: (
            [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        ),
    )


def _wrapped(text: str) -> str:
    """Paragraphs in lines of a terminal. tyro does not wrap them, and keeps only those breaks
    behind which a line is indented."""
    width = min(100, shutil.get_terminal_size().columns) - 1
    paragraphs = (textwrap.wrap(" ".join(p.split()), width, subsequent_indent="  ")
                  for p in text.split("\n\n"))  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in paragraphs)
