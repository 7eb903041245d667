"""CandidateQueue: the live queue that workers pull from, with a lease for every candidate taken.

A candidate is waiting, leased, or completed. A lease ends when its worker completes it, when the
worker is known to be dead, or when no beat has come for `lease_seconds`; in the last two cases the
candidate waits again under a new lease, and what the old one still reports is refused. One that has
lost a worker is a suspect: it waits behind the others and is to be tried alone.

Plain Python with an injected clock; one Ray actor holds it, and the durable queue behind it is the
store.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from actsearch.results.records import Cause, Outcome, Trial

LEASE_SECONDS = 600.0  # a child beats each second; only a frozen one is silent for so long
MAX_KILLED = 5  # its own process was killed so often, and its worker not: it is too large, say
MAX_LOST = 50  # its worker died so often, without evidence against it


@dataclass
class Lease:
    """A candidate in a worker's hands since `began`, until `ends` on the queue's clock. `alone`: it
    is a suspect, to be run in a process of its own. `waited`: seconds for other children of its
    worker, as its last beat said."""

    number: int
    trial: Trial
    worker: str
    began: float
    ends: float
    alone: bool
    step: int = 0
    waited: float = 0.0


class CandidateQueue:
    """See the module. All methods return at once."""

    def __init__(
        self,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._waiting: OrderedDict[int, Trial] = OrderedDict()
        self._leases: dict[int, Lease] = {}
        self._completed: list[tuple[Trial, Outcome]] = []
        self._lost: Counter[int] = Counter()
        self._killed: Counter[int] = Counter()
        self._next = 0
        self._held = False

    def put(self, trial: Trial, lost: int = 0) -> None:
        """`lost` is how many workers the candidate has lost already."""
        self._waiting[trial.id] = trial
        if lost:
            self._lost[trial.id] = lost

    def lease(self, worker: str) -> Lease | None:
        """The oldest waiting candidate, or None."""
        if not self._waiting:
            return None
        _, trial = self._waiting.popitem(last=False)
        self._next += 1
        now, alone = self._clock(), self._lost[trial.id] > 0
        lease = Lease(self._next, trial, worker, now, now + self._lease_seconds, alone)
        self._leases[self._next] = lease
        return lease

    def beat(self, lease: int, step: int, waited: float = 0.0) -> bool:
        """Renew a lease; False where it has ended, so that the worker can stop."""
        if lease not in self._leases:
            return False
        self._leases[lease].ends = self._clock() + self._lease_seconds
        self._leases[lease].step, self._leases[lease].waited = step, waited
        return True

    def complete(self, lease: int, outcome: Outcome) -> bool:
        """Accept an outcome once; False, and nothing stored, where the lease has ended."""
        held = self._leases.pop(lease, None)
        if held is None:
            return False
        self._completed.append((held.trial, outcome))
        return True

    def give_back(self, lease: int) -> list[Trial]:
        """The process in which a suspect ran was killed, and its worker was not: it waits again."""
        if lease not in self._leases:
            return []
        self._killed[self._leases[lease].trial.id] += 1
        return self._end([lease])

    def overdue(self, seconds: float) -> list[Lease]:
        """Leases that have been out for longer than that, without what their children waited."""
        began = self._clock() - seconds
        return [lease for lease in self._leases.values() if lease.began + lease.waited < began]

    def release(self, worker: str) -> list[Trial]:
        """The worker is dead: its candidates wait again, behind the others."""
        return self._end([n for n, lease in self._leases.items() if lease.worker == worker])

    def reclaim(self) -> list[Trial]:
        """End the leases whose time is over; their candidates wait again."""
        now = self._clock()
        return self._end([n for n, lease in self._leases.items() if lease.ends <= now])

    def _end(self, leases: list[int]) -> list[Trial]:
        trials = [self._leases.pop(number).trial for number in leases]
        for trial in trials:
            self._lost[trial.id] += 1
            if self._killed[trial.id] >= MAX_KILLED:
                cause = Cause.KILLED
                reason = f"alone in a process, it was killed {MAX_KILLED} times (for its memory?)"
            elif self._lost[trial.id] >= MAX_LOST:
                cause = Cause.WORKER_LOST
                reason = f"its worker died or fell silent {MAX_LOST} times"
            else:
                if not self._held:
                    self.put(trial)
                continue
            self._completed.append((trial, Outcome("crashed", reason, cause)))
        return trials

    def children(self) -> list[tuple[int, str, int, float]]:
        """Of each lease that is out: its trial's id, its worker, its step, its seconds."""
        now = self._clock()
        return [(r.trial.id, r.worker, r.step, now - r.began) for r in self._leases.values()]

    def hold(self) -> int:
        """Hand out nothing more, nor what a lease that ends would give back; returns how many
        leases are out."""
        self._held = True
        self._waiting.clear()
        return len(self._leases)

    def drain(self) -> tuple[list[tuple[Trial, Outcome]], int]:
        """What has been completed since the last call, and how many leases are out."""
        completed, self._completed = self._completed, []
        return completed, len(self._leases)
