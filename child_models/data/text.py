"""Text: bytes of files, tokens of a tokenizer, or token ids, cut into windows in which each is
predicted from those before it.

Every score is of the same windows, evenly spaced over its split, so functions are compared token by
token. The sources of Python's standard library are a text that every installation has.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models import turns
from actsearch.child_models.data.data import (
    DataError,
    check_fits,
    content_of,
    not_finite,
    readable,
)
from actsearch.child_models.data.datasets import STDLIB_OPTIONS, TEXT_OPTIONS
from actsearch.child_models.data.image_folder import SUFFIXES as IMAGES
from actsearch.child_models.data.tokens import Tokenizer
from actsearch.child_models.device import autocast, on_device
from actsearch.child_models.recipe import Recipe
from actsearch.results.metrics import METRICS, Metric
from actsearch.search_space import text as options

TEXT_KINDS = {option.name: option.kind for option in TEXT_OPTIONS}
STDLIB_KINDS = {option.name: option.kind for option in STDLIB_OPTIONS}
CONTEXT: int = TEXT_OPTIONS[0].default  # tokens that a child sees
SHORT = 16  # what is proposed where a text is too short for its context
MOVED = 0.1  # deviation by which the parameters of a child are moved, to see what it reads
WINDOWS = 512  # that a split is scored on, at most
EVALUATION_BATCH = 64
SPLITS = ("train", "val", "test")
SHARES = (0.8, 0.9, 1.0)  # where the splits of each file end
TXT = (".txt", ".txt.gz")  # what is read of a folder
ROOM = 8  # the memory for a text: as files, decoded (4 bytes a letter), as splits, in a task

# Not in the text: tests and applications, tables, and what is deprecated or installed beside it.
LEFT_OUT = {
    "test", "tests", "encodings", "pydoc_data", "lib2to3", "distutils", "idlelib", "tkinter",
    "turtledemo", "site-packages", "dist-packages", "__pycache__",
}  # fmt: skip

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Text:
    """Three splits as bytes (uint8) or token ids (int32), none of which is standardised, and how
    many of them a child sees at once. `lengths` are the bytes that each token covers, where those
    of a tokenizer are scored by the byte."""

    name: str
    splits: Mapping[str, np.ndarray] = field(repr=False)
    context: int
    vocabulary: int
    digest: str = ""
    lengths: Mapping[str, np.ndarray] = field(repr=False, default_factory=dict)
    metric: Metric = METRICS["bits per byte"]

    task = "language-model"

    @property
    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "context": self.context}

    @property
    def sizes(self) -> dict[str, int]:
        """Windows: side by side in training, those that are scored in the others."""
        found = {name: (len(part) - 1) // self.context for name, part in self.splits.items()}
        return {n: size if n == "train" else min(size, WINDOWS) for n, size in found.items()}

    def on(self, device: torch.device) -> TextTask:
        return TextTask(self, device)

    @torch.no_grad()
    def check_looks_back(self, model: nn.Module, name: str) -> None:
        """Raises ValueError for a child whose logits depend on tokens that come later, among them
        the one that they are to predict: it would score far too well. Its parameters are moved
        before, in place, since branches that begin at 0 hide what they read until they learn."""
        if self.context == 1:
            return
        random = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(MOVED * torch.randn(parameter.shape, generator=random))
        first = torch.randint(self.vocabulary, (1, self.context), generator=random)
        half, other = self.context // 2, first.clone()
        other[:, half:] = (other[:, half:] + 1) % self.vocabulary
        model.eval()
        was, now = (model(ids)[:, :half].float() for ids in (first, other))
        if (was - now).abs().max() > 1e-5 * was.std():  # rounding is less
            raise ValueError(
                f"the child {name} sees the tokens that it is to predict: its logits change with "
                "later ones; give a causal model (a decoder; is_decoder=True of transformers)"
            )


def make_text(
    name: str,
    splits: Mapping[str, bytes],
    context: int = CONTEXT,
    tokenizer: Tokenizer | None = None,
) -> Text:
    """A Text of these splits. Tokens are bytes, of which there are 128 in ASCII and else 256, or
    those of a tokenizer. Raises DataError where a split is shorter than a context and the token
    after it, and for text that the tokenizer does not keep."""
    sha = hashlib.sha256(f"{context}".encode())
    for part in splits.values():
        sha.update(f" {len(part)} ".encode())
        sha.update(part)
    lengths: dict[str, np.ndarray] = {}
    if tokenizer is None:
        vocabulary = 128 if all(part.isascii() for part in splits.values()) else 256
        arrays = {split: np.frombuffer(part, np.uint8) for split, part in splits.items()}
    else:
        encoded = {split: tokenizer.encode(part) for split, part in splits.items()}
        arrays, lengths = ({s: both[i] for s, both in encoded.items()} for i in (0, 1))
        vocabulary = tokenizer.vocabulary
        sha.update(tokenizer.content)
    shorter = f"{name.partition(':')[0]}:context={SHORT}"
    _check_lengths(name, arrays, context, "tokens" if lengths else "bytes", shorter)
    return Text(name, arrays, context, vocabulary, sha.hexdigest()[:16], lengths)


def tokens(ids: Any, *, context: int = CONTEXT, vocabulary: int | None = None) -> Text:
    """Data for a language model of token ids (n,), whole numbers from 0: the first 80 % train, the
    next 10 % validate, the last 10 % test.

    A child sees `context` of them at once, as (batch, context), and returns logits (batch, context,
    vocabulary) of those that follow; its score is in bits per token. `vocabulary` is how many ids
    there are [one more than the largest]. Raises DataError for ids that cannot be, or too few.
    """
    return _tokens("token ids", ids, context, vocabulary, f"actsearch.tokens(ids, context={SHORT})")


def from_arrays(name: str, arrays: Any) -> Text:
    """As `tokens`, with the usual context, of one array."""
    if isinstance(arrays, tuple):
        raise DataError(
            f"{name}: {len(arrays)} arrays; a language model takes one of token ids (n,)"
        )
    return _tokens(name, arrays, CONTEXT, None, f"actsearch.tokens(ids, context={SHORT})")


def load_ids(path: Path, chosen: str = "") -> Text:
    """As `tokens`, of an .npy file; `chosen` is as `context=128,vocabulary=50257`."""
    name, found = _named(path.name, chosen, {"context": int, "vocabulary": int})
    with readable(path, ".npy of token ids"):
        check_fits(path, ROOM * path.stat().st_size)
        ids = np.load(path, mmap_mode="r")  # which compares the header with the file's size
    context, vocabulary = found.get("context", CONTEXT), found.get("vocabulary")
    return _tokens(name, ids, context, vocabulary, f"{path.name}:context={SHORT}")


def _tokens(name: str, ids: Any, context: int, vocabulary: int | None, shorter: str) -> Text:
    ids = np.asarray(ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(
            f"{name}: an array of shape {ids.shape} and type {ids.dtype} is no sequence of token "
            "ids; give whole numbers (n,), one text after the other"
        )
    for option, value in {"context": context, "vocabulary": vocabulary}.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise DataError(f"{name}: {option}={value!r} needs a whole number of 1 or more")
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if low < 0:
        raise DataError(
            f"{name}: ids go from {low:,} to {high:,}, and no token has a negative id; number "
            "tokens from 0, and leave out padding"
        )
    vocabulary = high + 1 if vocabulary is None else int(vocabulary)
    if high >= vocabulary:
        raise DataError(
            f"{name}: ids go from {low:,} to {high:,}, and a vocabulary of {vocabulary:,} has 0 to "
            f"{vocabulary - 1:,}; give vocabulary={high + 1}, or other ids"
        )
    ids = ids.astype(np.int32)
    ends = [int(share * len(ids)) for share in SHARES]
    splits = {s: ids[a:b] for s, a, b in zip(SPLITS, (0, *ends), ends, strict=False)}
    _check_lengths(name, splits, context, "tokens", shorter)
    sha = hashlib.sha256(f"{context} {vocabulary} ".encode())
    sha.update(ids.tobytes())
    digest = sha.hexdigest()[:16]
    metric = METRICS["bits per token"]
    return Text(name, splits, int(context), vocabulary, digest, metric=metric)


def _check_lengths(
    name: str, splits: Mapping[str, np.ndarray], context: int, what: str, shorter: str
) -> None:
    for split, part in splits.items():
        if len(part) <= context:
            enough = 10 * (context + 1)  # since a tenth validates
            helps = min(map(len, splits.values())) > SHORT
            way = f", or a shorter context as {shorter}" if helps else ""
            raise DataError(
                f"{name}: {len(part):,} {what} to {_USES[split]} are too few for a context of "
                f"{context}; give a longer text, of about {enough:,} {what} or more{way}"
            )


_USES = {"train": "train on", "val": "validate on", "test": "test on"}


def _named(
    owner: str, chosen: str, kinds: Mapping[str, type] = TEXT_KINDS
) -> tuple[str, dict[str, Any]]:
    """A text's name with its options, and these, from `owner` and `context=128,tokenizer=bpe.json`.
    The name has files and folders without what they lie in. Raises ValueError for others than
    `kinds` says, DataError for a file that is no tokenizer."""
    found = options.read(owner, chosen, kinds)
    for option, value in found.items():
        if kinds[option] is int and value < 1:
            raise ValueError(f"{owner}:{option}={value} needs a whole number of 1 or more")
    paths = {o: Path(found[o]) for o in ("tokenizer", "library") if found.get(o)}
    name = options.written(owner, found | {option: path.name for option, path in paths.items()})
    if "tokenizer" in paths:
        found["tokenizer"] = Tokenizer(paths["tokenizer"])
    return name, found


# -- a user's own


def is_text(path: Path) -> bool:
    """A .txt or .gz file, or a folder that holds some .txt, at any depth, and no image."""
    if not path.is_dir():
        return path.suffix in (".txt", ".gz")
    found = False
    for _, _, names in os.walk(path):
        if any(name.lower().endswith(IMAGES) for name in names):
            return False
        found = found or any(name.endswith(TXT) for name in names)
    return found


def load_text(path: Path, chosen: str = "") -> Text:
    """A .txt or .gz file, or all .txt and .txt.gz of a folder in the order of their paths; the
    first 80 % of each train, the next 10 % validate, the last 10 % test. `chosen` is as
    `context=128`.

    Raises DataError for a file that is no text or a text that is too short.
    """
    name, found = _named(path.name, chosen)
    files = sorted(f for f in path.rglob("*") if f.name.endswith(TXT)) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file} is no file but a pipe, a device or a link; remove it")
    check_fits(path, ROOM * sum(file.stat().st_size for file in files))
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for file in files:
        content = _content(file)
        ends = [int(share * len(content)) for share in SHARES]
        for split, begin, end in zip(SPLITS, (0, *ends), ends, strict=False):
            parts[split].append(content[begin:end])
    return make_text(name, _joined(parts), **found)


def _joined(parts: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    return {split: b"".join(found) for split, found in parts.items()}


def _content(file: Path) -> bytes:
    content = content_of(file, ROOM)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is no text: byte {error.start:,} is not UTF-8; write it as UTF-8"
        ) from error
    if b"\0" in content:
        raise DataError(f"{file} is no text: byte {content.index(0):,} is 0")
    return content


# -- the standard library


def load_stdlib(chosen: str = "") -> Text:
    """The sources of this Python's standard library that are ASCII, or of another's, as
    `library=/usr/lib/python3.11`. A tenth of the files, by the hash of their paths, validates and
    another tests; so a file has its split in every version. Raises DataError where they are not
    installed."""
    name, found = _named("stdlib", chosen, STDLIB_KINDS)
    library = found.pop("library", "")
    whose = "" if library else f" (Python {platform.python_version()})"
    library = Path(library or sysconfig.get_path("stdlib"))
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for path in sorted(_sources(library)):
        if (content := (library / path).read_bytes()).isascii():
            tenth = int(hashlib.sha256(path.as_posix().encode()).hexdigest(), 16) % 10
            parts[{0: "val", 1: "test"}.get(tenth, "train")].append(content)
    if not all(parts.values()):
        raise DataError(
            f"{library} holds no sources of Python's standard library; give a text of your own, "
            "as --dataset FILE.txt"
        )
    made = make_text(name, _joined(parts), **found)
    # Levels of different versions differ, so every table says which one it is of.
    return replace(made, name=name + whose)


def _sources(library: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield from (Path(folder, f).relative_to(library) for f in files if f.endswith(".py"))


# -- on a device


class TextTask:
    """Cross-entropy of the next token, and its sum over fixed windows in bits per byte or token."""

    def __init__(self, data: Text, device: torch.device) -> None:
        self.device = device
        self.context = data.context
        self.sizes = data.sizes
        self.text = {n: torch.tensor(part, device=device) for n, part in data.splits.items()}
        self.lengths = data.lengths
        self.offsets = torch.arange(data.context + 1, device=device)

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Batch]:
        """Tokens and those that follow them, both (N, context), of windows anywhere in the text, or
        of those side by side in their order where the recipe does not shuffle."""
        places = len(self.text["train"]) - self.context
        number = start
        while True:
            if recipe.shuffle:
                chosen = np.random.default_rng((seed, number)).integers(
                    places, size=recipe.batch_size
                )
            else:
                window = np.arange(recipe.batch_size) + number * recipe.batch_size
                chosen = window % self.sizes["train"] * self.context
            yield self._windows("train", torch.from_numpy(chosen))
            number += 1

    def _windows(self, split: str, starts: torch.Tensor) -> Batch:
        at = on_device(starts, self.device)[:, None] + self.offsets
        tokens = self.text[split][at].long()
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        tokens, following = batch
        with autocast(recipe, self.device):
            logits = model(tokens).flatten(0, 1).float()
        return F.cross_entropy(logits, following.flatten(), label_smoothing=recipe.label_smoothing)

    @torch.no_grad()
    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float:
        """Bits per token on the split's windows, or on so many of them; raises Diverged for logits
        that are not finite. Nothing waits for a GPU before the end."""
        model.eval()
        count = min(self.sizes[split], examples or WINDOWS)
        last = len(self.text[split]) - self.context - 1
        starts = torch.from_numpy(np.linspace(0, last, count).astype(np.int64))
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for some in starts.split(EVALUATION_BATCH):
            tokens, following = self._windows(split, some)
            with autocast(recipe, self.device):
                logits = model(tokens).flatten(0, 1).float()
            finite &= torch.isfinite(logits).all()
            nats += F.cross_entropy(logits, following.flatten(), reduction="sum")
            beat()
        turns.wait()
        if not bool(finite & nats.isfinite()):
            raise not_finite("logits", split)
        return float(nats) / (self._units(split, starts) * math.log(2))

    def _units(self, split: str, starts: torch.Tensor) -> int:
        """The tokens that are predicted in these windows, or the bytes that they cover."""
        if split not in self.lengths:
            return len(starts) * self.context
        at = starts.numpy()[:, None] + np.arange(1, self.context + 1)
        return int(self.lengths[split][at].sum())
