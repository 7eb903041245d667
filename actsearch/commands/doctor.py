"""actsearch doctor: check this machine."""

from __future__ import annotations

from dataclasses import dataclass

from actsearch.errors import DONE, ENVIRONMENT
from actsearch.options import Options
from actsearch.shown import put


@dataclass(frozen=True)
class DoctorConfig(Options):
    """Check this machine: versions, devices, Ray, disk, where packages come from.

    Example: actsearch doctor
    """


def run(config: DoctorConfig) -> int:
    from actsearch.reading.describe import checks, doctor_lines

    found = list(checks())
    put("\n".join(doctor_lines(found)))
    return DONE if all(well for _, _, well in found) else ENVIRONMENT
