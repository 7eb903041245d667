"""The queue and the workers as Ray's actors, with what workers ask the front door for: which code
this is, whether torch sees the GPUs that Ray hands out, and how long children waited for their
turn. None of it imports torch, a second or two of a processor's time, before an evaluation needs
it."""

from __future__ import annotations

import sys

from actsearch.origin import code_version
from actsearch.results.records import NoDeviceError
from actsearch.workers.candidate_queue import CandidateQueue
from actsearch.workers.ray_worker import Worker


class QueueActor(CandidateQueue):
    """The candidate queue as a Ray actor."""


class WorkerActor(Worker):
    """A worker as a Ray actor."""

    def code(self) -> str:
        return code_version()

    def waited(self) -> float:
        turns = sys.modules.get("actsearch.child_models.turns")
        return turns.waited() if turns else 0.0

    def check_gpus(self, count: int) -> None:
        if not count:
            return
        import torch

        if not torch.cuda.is_available():
            raise NoDeviceError(
                f"Ray hands it out, and torch {torch.__version__} sees none; install a CUDA build "
                "there, or start Ray there with --num-gpus 0"
            )
