"""Libraries of C kernels, kept in a cache by the hash of all that they depend on.

A process that loads a library which was cut short, as by a full disk or a power cut, is killed at
its first call (SIGBUS). So each ends in a seal, its length and SHA-256, which is compared before
the library is loaded; one whose seal does not fit is built again.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from actsearch.search_space.kernels.c import ELEMENTS, Source, unit
from actsearch.search_space.kernels.compiler import CompileError, compile_library

T = TypeVar("T")


def cache_folder() -> Path:
    """Where libraries are kept, readable and writable by their owner alone. Raises CompileError
    where others could put code there, in the folder itself or by moving one above it away."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "actsearch" / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise CompileError(f"{folder} can be written by others, who could put code there")
    for above in folder.resolve().parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # as /tmp, where only owners move
            raise CompileError(
                f"{above} can be written by everybody, who could put code into {folder}; set "
                f"XDG_CACHE_HOME to a folder of yours, or 'chmod o-w {above}'"
            )
    return folder


def build(sources: Iterable[Source]) -> int:
    """Compile what the cache does not have whole, all in one call of the compiler a type of
    element; returns how many that were. Raises CompileError."""
    folder = cache_folder()
    wanted = {s.key: s for s in sources if not _whole(folder / f"{s.key}.so")}
    for element in ELEMENTS:
        group = [s for s in wanted.values() if s.element == element]
        if group:
            _compile(group, element, folder)
    return len(wanted)


def _compile(group: Sequence[Source], element: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as temporary:
        library = Path(temporary, "kernels.so")
        compile_library(unit(group, element), Path(temporary, "kernels.c"), library)
        seal = _seal(library.read_bytes())
        with open(
            library, "ab"
        ) as file:  # a loader passes over what follows an ELF file's sections
            file.write(seal)
            file.flush()
            os.fsync(file.fileno())  # its content is on the disk before its name is
        for i, s in enumerate(group):  # one file under several names
            part = Path(temporary, f"{i}.so")
            os.link(library, part)
            part.replace(folder / f"{s.key}.so")
    _sync(folder)


def _seal(library: bytes) -> bytes:
    return len(library).to_bytes(8, "little") + hashlib.sha256(library).digest()


SEAL_BYTES = len(_seal(b""))


def _whole(library: Path) -> bool:
    """Whether the file is there and is what was written; a disk that cannot read it says no."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return content[-SEAL_BYTES:] == _seal(content[:-SEAL_BYTES])


def _sync(folder: Path) -> None:
    """Names outlast a power cut too; some network file systems cannot promise that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened(source: Source, opener: Callable[[str], T]) -> T:
    """What `opener` makes of the source's key, built if need be; once more where the library cannot
    be loaded, as when somebody has emptied the cache meanwhile."""
    build([source])
    try:
        return opener(source.key)
    except OSError:
        (cache_folder() / f"{source.key}.so").unlink(missing_ok=True)
    build([source])
    return opener(source.key)


Call = Callable[..., None]
Sizes = tuple[int, int, int]  # outer, channels, inner: how the betas' channels lie in memory
Tensors = Sequence[torch.Tensor]  # one an input


@dataclass(frozen=True)
class Kernel:
    """The functions of a library, on tensors that are dense and lie alike; `sizes` are for betas.
    It has `backward` or, where dy/dx is kept, `sloped`."""

    forward_loop: Call
    backward_loop: Call | None
    sloped_loop: Call | None

    @property
    def keeps_slope(self) -> bool:
        return self.sloped_loop is not None

    def forward(
        self, inputs: Tensors, y: torch.Tensor, betas: torch.Tensor | None, sizes: Sizes
    ) -> None:
        given = [t.data_ptr() for t in inputs]
        if betas is None:
            self.forward_loop(*given, y.data_ptr(), y.numel())
        else:
            self.forward_loop(*given, y.data_ptr(), betas.data_ptr(), *sizes)

    def sloped(self, inputs: Tensors, y: torch.Tensor, slopes: Tensors) -> None:
        assert self.sloped_loop is not None
        self.sloped_loop(*(t.data_ptr() for t in (*inputs, y, *slopes)), y.numel())

    def backward(
        self,
        inputs: Tensors,
        gy: torch.Tensor,
        ginputs: Tensors,
        betas: torch.Tensor | None,
        sizes: Sizes,
    ) -> torch.Tensor | None:
        """Writes `ginputs`; returns the gradients of the betas."""
        assert self.backward_loop is not None
        given = [t.data_ptr() for t in (*inputs, gy, *ginputs)]
        if betas is None:
            self.backward_loop(*given, gy.numel())
            return None
        gbetas = torch.empty_like(betas)
        self.backward_loop(*given, betas.data_ptr(), gbetas.data_ptr(), *sizes)
        return gbetas


@cache
def load(key: str, *, with_betas: bool, inputs: int = 1) -> Kernel:
    """The kernel of a source that was built, of a function of so many inputs."""
    more, integers = (1, 3) if with_betas else (0, 1)

    def of(name: str, pointers: int) -> Call | None:
        return function(key, name, *[POINTER] * pointers, *[INTEGER] * integers)

    forward = of("forward", inputs + 1 + more)
    assert forward is not None
    both = 2 * inputs + 1
    return Kernel(forward, of("backward", both + 2 * more), of("sloped", both))


POINTER, INTEGER = ctypes.c_void_p, ctypes.c_longlong


def function(key: str, name: str, *arguments: type) -> Call | None:
    """`NAME_KEY` of a library that was built, None where it has no such function."""
    library = ctypes.CDLL(str(cache_folder() / f"{key}.so"))
    found = getattr(library, f"{name}_{key}", None)
    if found is not None:
        found.argtypes = arguments
        found.restype = None
    return found
