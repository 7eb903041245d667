"""The command line. Heavy imports happen inside the commands, so that --help is instant."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from actsearch.commands import (
    archive,
    compare,
    doctor,
    experiment,
    export,
    merge,
    options,
    paper,
    plot,
    propose,
    reevaluate,
    replay,
    report,
    search,
    show,
    space,
    stop,
    top,
    watch,
    worker,
)
from actsearch.commands.overview import overview
from actsearch.errors import DONE, INTERRUPTED, RESUMABLE, UNEXPECTED, exit_code
from actsearch.options import Options
from actsearch.results.version import own_version
from actsearch.settings import MachineryOptions
from actsearch.shown import say

COMMANDS: Mapping[str, tuple[type[Options], Callable[[Any], int]]] = {
    "search": (search.SearchConfig, search.run),
    "stop": (stop.StopConfig, stop.run),
    "propose": (propose.ProposeConfig, propose.run),
    "worker": (worker.WorkerConfig, worker.run),
    "top": (top.TopConfig, top.run),
    "reevaluate": (reevaluate.ReevaluateConfig, reevaluate.run),
    "compare": (compare.CompareConfig, compare.run),
    "paper": (paper.PaperConfig, paper.run),
    "experiment": (experiment.ExperimentConfig, experiment.run),
    "report": (report.ReportConfig, report.run),
    "watch": (watch.WatchConfig, watch.run),
    "plot": (plot.PlotConfig, plot.run),
    "replay": (replay.ReplayConfig, replay.run),
    "show": (show.ShowConfig, show.run),
    "export": (export.ExportConfig, export.run),
    "space": (space.SpaceConfig, space.run),
    "merge": (merge.MergeConfig, merge.run),
    "archive": (archive.ArchiveConfig, archive.run),
    "options": (options.OptionsConfig, options.run),
    "doctor": (doctor.DoctorConfig, doctor.run),
}


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn every error into a sentence and an exit code."""
    code = _main(argv)
    calls = sys.modules.get("actsearch.workers.ray_thread")  # imported where Ray is used
    if calls is not None and calls.ray_is_stuck():
        sys.stdout.flush()
        os._exit(code)
    return code


def _main(argv: list[str] | None) -> int:
    config: Any = None
    configs = {name: config for name, (config, _) in COMMANDS.items()}
    asked = sys.argv[1:] if argv is None else argv
    try:
        if asked == ["--version"]:
            print(f"actsearch {own_version()}")
            return DONE
        if asked in (["-h"], ["--help"]):
            print(overview(configs), end="")
            return DONE
        from actsearch.commands.line import read_command

        config = read_command(asked, configs)
        with clean_stdout():
            return COMMANDS[asked[0]][1](config)
    except KeyboardInterrupt:
        kept = " All that had finished is stored; the same command goes on."
        say("Interrupted." + kept * isinstance(config, MachineryOptions))
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except Exception as error:
        return _fail(error, logged=isinstance(config, MachineryOptions))


def _fail(error: Exception, *, logged: bool) -> int:
    code = exit_code(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        say("actsearch: the disk is full")
        return RESUMABLE
    if code == UNEXPECTED:
        where = "is in the run's run.log, or" if logged else "is"
        say(
            f"actsearch: unexpected {type(error).__name__}: {error}",
            f"The traceback {where} printed with ACTSEARCH_TRACEBACK=1.",
        )
    else:
        say(f"actsearch: {error}")
    if os.environ.get("ACTSEARCH_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    return code


@contextmanager
def clean_stdout() -> Iterator[None]:
    """Only what we print ourselves reaches stdout: Ray writes on file descriptor 1 too."""
    try:
        own = os.dup(1)
    except OSError:  # no stdout to protect
        yield
        return
    sys.stdout.flush()
    python_stdout = sys.stdout
    if not hasattr(python_stdout, "fileno") or _fileno(python_stdout) != 1:
        os.close(own)  # redirected inside Python already, as under a test runner
        yield
        return
    try:
        os.dup2(2, 1)
        with os.fdopen(os.dup(own), "w", encoding="utf-8", errors="replace") as clean:
            sys.stdout = clean
            yield
            clean.flush()
    finally:
        sys.stdout = python_stdout
        os.dup2(own, 1)
        os.close(own)


def _fileno(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
