"""The command line. Heavy imports happen inside the commands, so that --help is instant."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from actsearch.config import (
    CompareConfig,
    DoctorConfig,
    ExperimentConfig,
    ExportConfig,
    PaperConfig,
    PlotConfig,
    ReevaluateConfig,
    ReplayConfig,
    ReportConfig,
    SearchConfig,
    ShowConfig,
    SpaceConfig,
    StopConfig,
    TopConfig,
    WorkerConfig,
    overview,
    read_command,
)
from actsearch.errors import (
    DONE,
    ENVIRONMENT,
    INTERRUPTED,
    RESUMABLE,
    UNEXPECTED,
    exit_code,
    written,
)
from actsearch.results.tables import printable

if TYPE_CHECKING:
    from actsearch.run import Run

WATCH_SECONDS = 2.0
LAYOUT = "\n\t"  # of what is printed


def search(config: SearchConfig) -> int:
    from rich.console import Console

    from actsearch.searching.launch import carry_out, check_found, make_plan
    from actsearch.searching.loop import STOPPED

    plan = make_plan(config)
    _say(*plan.lines(), "")
    if config.dry_run:
        return DONE
    start = time.monotonic()
    reason = carry_out(plan, Console(stderr=True))
    if reason != STOPPED or any(n for s, n in plan.run.counts().items() if s != "waiting"):
        check_found(plan.run)
    _print("\n".join(_closing(plan.run, reason, time.monotonic() - start)))
    return RESUMABLE if reason == STOPPED else DONE


def _closing(run: Run, reason: str, seconds: float) -> list[str]:
    """The end of a search: the ranked head, the counts, and what to type next."""
    from actsearch.results.leaderboard import BESIDE
    from actsearch.results.tables import duration, to_text
    from actsearch.run import counts_line, head
    from actsearch.searching.loop import STOPPED

    entries = run.leaderboard()
    hours = sum(e.seconds for e in entries)
    path = shlex.quote(str(run.path))
    lost = "; nothing is lost, the same command goes on" if reason == STOPPED else ""
    following = [
        f"the run is in {run.path}; next:",
        f"  actsearch reevaluate {path} --top 5 --seeds 3",
        f"  actsearch report {path}",
        f"  actsearch export {path}#1",
    ]
    searched = any(e.rank is not None and e.label not in BESIDE for e in entries)
    return [
        to_text(head(entries)),
        counts_line(run.counts()),
        f"ended: {reason}{lost}",
        f"{duration(seconds)} this time, {duration(hours)} of training in all",
        *(following if searched else [f"the run is in {run.path}"]),
    ]


def top(config: TopConfig) -> int:
    from actsearch.results.filters import where
    from actsearch.results.tables import FORMATS
    from actsearch.run import Run, counts_line, narrow, top_rows

    run = Run.open(config.run) if config.run else Run.newest()
    while True:
        counts, text = run.counts(), config.format == "table"
        rows = top_rows(run.leaderboard(), full=True)
        rows = where(config.where, rows)[: config.n]
        if config.format in ("table", "markdown") and not config.wide:
            rows = [narrow(row) for row in rows]
        if config.watch and text:
            sys.stdout.write("\x1b[2J\x1b[H")
        _print(FORMATS[config.format](rows), end="")
        if text and config.where and not rows:
            fractions = "; scores are fractions, as val_accuracy>0.9" * run.metric.fraction
            _print(f"no function with {config.where}{fractions}")
        if text:
            _print(f"{run.path}: {counts_line(counts)}")
        sys.stdout.flush()
        if not config.watch:
            return DONE
        time.sleep(WATCH_SECONDS)


def stop(config: StopConfig) -> int:
    from actsearch.run import Run

    run = Run.open(config.run) if config.run else Run.newest()
    _say(f"Asked {run.stop()} to stop; its running children finish first. Nothing is lost.")
    return DONE


def worker(config: WorkerConfig) -> int:
    from actsearch.run import Run
    from actsearch.searching.cluster import join

    run = Run.open(config.run) if config.run else None
    for line in join(config.ray_address, run, cpus=config.cpus, gpus=config.gpus):
        _say(line)
    return DONE


def reevaluate(config: ReevaluateConfig) -> int:
    from rich.console import Console

    from actsearch.reading.comparison import luck
    from actsearch.results.tables import FORMATS
    from actsearch.run import Run
    from actsearch.searching.loop import STOPPED
    from actsearch.searching.reevaluation import carry_out

    rows, reason = carry_out(config, Console(stderr=True))
    _print(FORMATS[config.format](rows), end="")
    if config.format == "table" and not config.functions:
        run = Run.open(config.run) if config.run else Run.newest()
        if (sentence := luck(run)) is not None:
            _print(sentence)
    return RESUMABLE if reason == STOPPED else DONE


def compare(config: CompareConfig) -> int:
    from actsearch.reading.comparison import compare as compare_runs
    from actsearch.reading.comparison import text
    from actsearch.results.tables import FORMATS

    found = compare_runs(
        *config.runs,
        reference=config.reference,
        metric=config.metric,
        decimals=config.round,
    )
    rendered = FORMATS[config.format]
    tables = config.format in ("table", "markdown")
    _print(text(found, rendered) if tables else rendered(found.models), end="")
    return DONE


def paper(config: PaperConfig) -> int:
    from actsearch.results.tables import FORMATS
    from actsearch.run import Run
    from actsearch.studies.beside_paper import paper_rows, paper_text

    run = Run.open(config.run) if config.run else None
    render = FORMATS[config.format]
    if config.format in ("table", "markdown"):
        _print(paper_text(config.table, run, render), end="")
    else:
        _print(render(paper_rows(config.table, run)), end="")
    return DONE


def experiment(config: ExperimentConfig) -> int:
    import json

    from rich.console import Console

    from actsearch.results.tables import FORMATS
    from actsearch.searching.loop import STOPPED
    from actsearch.studies.experiments import carry_out

    report = carry_out(config, Console(stderr=True))
    if config.format == "json":
        tables = {"results": report.results, "claims": report.claims}
        _print(json.dumps(tables, indent=2, allow_nan=False))
    else:
        to_text = FORMATS[config.format]
        _print(f"{to_text(report.results)}\n{to_text(report.claims)}", end="")
    _say("", *(f"wrote {path}" for path in report.files))
    if report.reason != STOPPED:
        return DONE
    _say("Stopped before all was trained. Nothing is lost, the same command goes on.")
    return RESUMABLE


def plot(config: PlotConfig) -> int:
    from actsearch.reading.plotting import carry_out

    _print("\n".join(str(path) for path in carry_out(config)))
    return DONE


def report(config: ReportConfig) -> int:
    from actsearch.reading.reporting import carry_out

    _print(carry_out(config))
    return DONE


def replay(config: ReplayConfig) -> int:
    from pathlib import Path

    from actsearch.errors import UsageError
    from actsearch.results.tables import FORMATS, to_csv
    from actsearch.studies.known_results import table_from
    from actsearch.studies.replay import curves, summary
    from actsearch.studies.replay import replay as play_all

    if config.curves and not Path(config.curves).absolute().parent.is_dir():
        raise UsageError(f"--curves {config.curves}: there is no such folder")
    table = table_from(config.table, config.space, config.operators)
    covered, goal = table.coverage(), table.named(config.find)
    _say(
        f"{config.table}: {len(table):,} functions of {table.space.spec}, best "
        f"{table.top(0.0):.2%}, top {config.top:g} % from {table.top(config.top):.2%}"
    )
    if covered < 0.1:
        raise UsageError(
            f"{config.table} has only {covered:.1%} of the candidates of {table.space.spec}: a "
            "replay would tell nothing; give the table of a space trained whole, or --space"
        )
    if covered < 0.5:
        _say(
            f"Only {covered:.0%} of the space's candidates are in the table; the others count as "
            "rejected, which no real search would tell."
        )
    replayed = play_all(
        table,
        config.strategy,
        repeats=config.repeats,
        budget=config.budget,
        workers=config.workers,
        seed=config.seed,
        goal=goal,
    )
    _print(FORMATS[config.format](summary(table, replayed, config.top, goal)), end="")
    if config.curves:
        with written(config.curves):
            Path(config.curves).write_text(to_csv(curves(table, replayed)))
    return DONE


def show(config: ShowConfig) -> int:
    from actsearch.reading.describe import show_lines

    _print("\n".join(show_lines(config.formula, config.operators)))
    return DONE


def export(config: ExportConfig) -> int:
    from actsearch.reading.exporting import carry_out

    _print(carry_out(config), end="")
    return DONE


def space(config: SpaceConfig) -> int:
    from actsearch.reading.describe import distinct_lines, listed_lines, space_lines
    from actsearch.search_space.space import space_from

    chosen = space_from(config.space)
    if config.list:
        for line in listed_lines(chosen, config.operators):
            _print(line)
        return DONE
    _print("\n".join(space_lines(chosen)))
    if config.distinct or config.merged:
        _print("\n".join(distinct_lines(chosen, config.operators, merged=config.merged)))
    return DONE


def doctor(config: DoctorConfig) -> int:
    from actsearch.reading.describe import checks, doctor_lines

    found = list(checks())
    _print("\n".join(doctor_lines(found)))
    return DONE if all(well for _, _, well in found) else ENVIRONMENT


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "search": (SearchConfig, search),
    "stop": (StopConfig, stop),
    "worker": (WorkerConfig, worker),
    "top": (TopConfig, top),
    "reevaluate": (ReevaluateConfig, reevaluate),
    "compare": (CompareConfig, compare),
    "paper": (PaperConfig, paper),
    "experiment": (ExperimentConfig, experiment),
    "report": (ReportConfig, report),
    "plot": (PlotConfig, plot),
    "replay": (ReplayConfig, replay),
    "show": (ShowConfig, show),
    "export": (ExportConfig, export),
    "space": (SpaceConfig, space),
    "doctor": (DoctorConfig, doctor),
}


TRAINING = SearchConfig, ReevaluateConfig, ExperimentConfig  # what they finish is stored


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
            print(f"actsearch {importlib.metadata.version('actsearch')}")
            return DONE
        if asked in (["-h"], ["--help"]):
            print(overview(configs), end="")
            return DONE
        config = read_command(asked, configs)
        if "" in (getattr(config, "run", None), *getattr(config, "runs", ())):
            raise ValueError("RUN is empty; leave it out, or name a folder")
        command = next(run for cls, run in COMMANDS.values() if isinstance(config, cls))
        with clean_stdout():
            return command(config)
    except KeyboardInterrupt:
        if isinstance(config, TopConfig) and config.watch:
            return DONE  # there is no other way out
        kept = " All that had finished is stored; the same command goes on."
        _say("Interrupted." + kept * isinstance(config, TRAINING))
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except Exception as error:
        return _fail(error, logged=isinstance(config, TRAINING))


def _fail(error: Exception, *, logged: bool) -> int:
    code = exit_code(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _say("actsearch: the disk is full")
        return RESUMABLE
    if code == UNEXPECTED:
        where = "is in the run's run.log, or" if logged else "is"
        _say(
            f"actsearch: unexpected {type(error).__name__}: {error}",
            f"The traceback {where} printed with ACTSEARCH_TRACEBACK=1.",
        )
    else:
        _say(f"actsearch: {error}")
    if os.environ.get("ACTSEARCH_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    return code


def _say(*lines: str) -> None:
    print(printable("\n".join(lines), keep=LAYOUT), file=sys.stderr, flush=True)


def _print(text: object, end: str = "\n") -> None:
    """On stdout, and nothing of it that a terminal obeys: runs come from others, too."""
    print(printable(str(text), keep=LAYOUT), end=end)


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
