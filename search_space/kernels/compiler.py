"""The system's C compiler, and what its output depends on besides the source."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

# O1 with vectorised loops takes half the time to compile of O3. -fgcse and -fschedule-insns, which
# mixes functions that do not wait for each other, make its code as fast.
FLAGS = (
    "-O1", "-fgcse", "-fschedule-insns", "-ftree-vectorize", "--param", "vect-epilogues-nomask=0",
    "-fopenmp-simd", "-march=native", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=off", "-w",
)  # fmt: skip
FUNCTIONS = ("sin", "cos")  # what a kernel calls of libm
COMPILE_SECONDS = 120.0


class CompileError(Exception):
    """There is no compiler, or it refuses; the message says which."""


@cache
def machine() -> tuple[str, ...]:
    """What a library depends on besides its source."""
    return (" ".join(FLAGS), _compiler_version(), _processor(), " ".join(vector_functions()))


@cache
def compiler() -> str | None:
    """The system's C compiler ($CC, cc, gcc or clang), None where there is none."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def _compiler_version() -> str:
    found = compiler()
    if found is None:
        return ""
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20)
    return done.stdout.partition("\n")[0]


@cache
def _processor() -> str:
    """`-march=native` means another thing on another machine that shares the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(dict.fromkeys(s for s in lines if s.startswith(("model name", "flags"))))


@cache
def vector_functions() -> tuple[str, ...]:
    """The functions that libmvec has for vectors of float."""
    if platform.machine() != "x86_64":
        return ()
    try:
        library = ctypes.CDLL("libmvec.so.1")
    except OSError:
        return ()
    return tuple(name for name in FUNCTIONS if hasattr(library, f"_ZGVdN8v_{name}f"))


def compile_library(text: str, code: Path, library: Path) -> None:
    """Write `text` to `code` and compile it to `library`; raises CompileError."""
    found = compiler()
    if found is None:
        raise CompileError("no C compiler ($CC, cc, gcc, clang)")
    code.write_text(text)
    libraries = ["-lmvec"] if vector_functions() else []
    command = [found, *FLAGS, str(code), "-o", str(library), *libraries, "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"{found}: {error}") from error
    if done.returncode != 0:
        raise CompileError(f"{found} ended with {done.returncode}: {done.stderr[:500]}")
