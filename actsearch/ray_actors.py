"""The classes that Ray unpickles by name. They live here so that a worker process imports
actsearch, and with it the guard of origin.py, before any of the generic names."""

from __future__ import annotations

from actsearch.origin import code_version
from results.records import NoDeviceError
from workers.candidate_queue import CandidateQueue
from workers.ray_worker import Worker


class QueueActor(CandidateQueue):
    """The candidate queue as a Ray actor."""


class WorkerActor(Worker):
    """A worker as a Ray actor."""

    def code(self) -> str:
        return code_version()

    def check_gpus(self, count: int) -> None:
        import torch

        if count and not torch.cuda.is_available():
            raise NoDeviceError(
                f"Ray hands it out, and torch {torch.__version__} sees none; install a CUDA build "
                "there, or start Ray there with --num-gpus 0"
            )
