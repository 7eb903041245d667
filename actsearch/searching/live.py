"""The live block: one picture of a search, redrawn twice a second; plain lines where there is no
terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from actsearch.results.records import ALWAYS_BESIDE
from actsearch.results.tables import duration, printable
from actsearch.searching.progress import Progress, Scored

PLAIN_SECONDS = 30.0
BAR = 28
SPARKS = 12


def lines(progress: Progress, width: int = 80) -> list[str]:
    """The block as text."""
    elapsed = time.monotonic() - progress.started
    head = progress.title[: width - 13].ljust(width - 12)
    hours, rest = divmod(int(elapsed), 3600)
    block = [f" {head} {hours:02d}:{rest // 60:02d}:{rest % 60:02d}"]
    block.append(f" {_bar(progress)}{_pace(progress)}")
    counts = progress.counts
    others = f" · raced out {counts['raced_out']}" if counts["raced_out"] else ""
    others += f" · confirming {progress.confirmed}" if progress.confirmed else ""
    block.append(
        f" {progress.workers}   running {progress.running} · rejected {counts['rejected']}"
        f" · diverged {counts['diverged']}"
        f"{others} · failed {counts['failed'] + counts['crashed'] + counts['timed_out']}"
        f" · repeats {progress.repeats} (free)"
    )
    block += [_best(i, s, width) for i, s in enumerate(progress.best[:2])]
    if progress.baselines:
        shown = (f"{name} {seen.text}" for name, seen in _always_first(progress.baselines))
        block.append(f"       {'   '.join(shown)}"[: width - 1])
    if progress.health:
        block.append(f" {_health(progress.health)}"[: width - 1])
    if progress.last:
        block.append(" last  " + " · ".join(_last(s) for s in progress.last)[: width - 8])
    if progress.trouble:
        block.append(f" {progress.trouble}")
    if progress.stopping:
        block.append(
            f" Stopping: {progress.running} children are finishing. "
            "Ctrl-C again to stop now. Nothing is lost."
        )
    return block


def _bar(progress: Progress) -> str:
    if not progress.goal:
        return f"{progress.done:,} done"
    filled = min(BAR, BAR * progress.done // progress.goal)
    return f"{'█' * filled}{'░' * (BAR - filled)}  {progress.done:,}/{progress.goal:,}"


def _pace(progress: Progress) -> str:
    rate = f"   {60 * progress.rate:.1f}/min" if progress.rate else ""
    return rate + (f"   ETA {duration(progress.eta)}" if progress.eta is not None else "")


def _always_first(baselines: Mapping[str, Scored]) -> list[tuple[str, Scored]]:
    """ReLU and Swish, then the others, best first."""
    always = [(k, seen) for k, seen in baselines.items() if k in ALWAYS_BESIDE]
    others = [(k, seen) for k, seen in baselines.items() if k not in ALWAYS_BESIDE]
    return always + sorted(others, key=lambda other: -other[1].merit)


def _best(i: int, scored: Scored, width: int) -> str:
    ago = f"#{scored.trial}, {duration(max(0, time.time() - scored.at))} ago"
    text = scored.formula[: width - 20 - len(ago)]
    line = f" {'best' if i == 0 else '    '}  {scored.text}  {text}"
    return f"{line.ljust(width - 1 - len(ago))}{ago}"


def _health(history: Sequence[Mapping[str, float]]) -> str:
    """Such as `controller  reward 0.874 ▁▂▃▅▆▇  entropy 2.31  KL 0.008`; the reward's recent past
    as bars."""
    latest = {k: v for k, v in history[-1].items() if k not in ("proposals", "repeats")}
    rewards = [numbers["reward"] for numbers in history[-SPARKS:]]
    low, span = min(rewards), max(rewards) - min(rewards)
    bars = "".join("▁▂▃▄▅▆▇█"[round(7 * (r - low) / span) if span else 0] for r in rewards)
    shown = (f"{k} {v:.3g}" for k, v in latest.items() if k != "reward")
    return "  ".join((f"controller  reward {rewards[-1]:.3f} {bars}", *shown))


def _last(scored: Scored) -> str:
    text = scored.formula
    return (
        f"{text} {scored.text}"
        if scored.score is not None
        else (f"{text} {scored.status}: {scored.reason}")
    )


def plain_line(progress: Progress) -> str:
    """The block in one line, for logs."""
    best = progress.best[0] if progress.best else None
    found = f", best {best.text} {best.formula}" if best else ""
    of = f"/{progress.goal:,}" if progress.goal else ""
    reward = f", reward {progress.health[-1]['reward']:.3f}" if progress.health else ""
    trouble = f"; {progress.trouble}" if progress.trouble else ""
    found += f", {progress.confirmed} confirming" if progress.confirmed else ""
    head = f"{progress.done:,}{of} done{_pace(progress)}, running {progress.running}"
    return f"{head}{found}{reward}{trouble}"


class _Block:
    """What rich draws: asked for anew at each refresh."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __rich__(self) -> Group:
        return Group(*(Text(printable(line), no_wrap=True) for line in lines(self.progress)))


@contextmanager
def live(progress: Progress, console: Console) -> Iterator[None]:
    """Show `progress` on `console` while the body runs."""
    if console.is_terminal:
        with Live(_Block(progress), console=console, refresh_per_second=2):
            yield
        return
    over = threading.Event()

    def say() -> None:
        console.print(Text(printable(plain_line(progress))), soft_wrap=True)

    def report() -> None:
        while not over.wait(PLAIN_SECONDS):
            say()

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        say()
