"""Translation: pairs of sentences from files, as tokens of one vocabulary, scored by BLEU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from actsearch.child_models.data.data import DataError, content_of, not_finite
from actsearch.child_models.device import autocast, on_device
from actsearch.child_models.recipe import Recipe
from actsearch.results.metrics import METRICS
from actsearch.search_space import text as options

PADDING, START, END = 0, 1, 2  # the first tokens of every vocabulary
EVALUATION_BATCH = 250
ROOM = 8  # the memory for a file's sentences as text, as tokens and while they are encoded
POOL = 50  # batches whose sentences are sorted by length, so that little is padded
LONGER = 20  # tokens that a translation may have more than its source
USUAL = {"vocabulary": 8_000, "length": 100}

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Sentences:
    """Pairs as tokens one after another, with the place where each sentence begins; `text` are the
    targets as written."""

    source: np.ndarray = field(repr=False)
    source_at: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)
    target_at: np.ndarray = field(repr=False)
    text: tuple[str, ...] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.source_at) - 1


@dataclass(frozen=True, eq=False)
class Translation:
    """Three splits of sentence pairs, and the vocabulary of both languages as the `tokenizers`
    library writes it."""

    name: str
    splits: dict[str, Sentences] = field(repr=False)
    tokenizer: str = field(repr=False)
    vocabulary: int
    length: int
    digest: str = ""

    metric = METRICS["BLEU"]
    task = "translation"

    @property
    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "length": self.length}

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.splits.items()}

    def on(self, device: torch.device) -> TranslationTask:
        return TranslationTask(self, device)


def load_pairs(name: str) -> Translation:
    """`FOLDER:SOURCE-TARGET`, as multi30k:en-de, then options, as :vocabulary=4000,length=64.

    The folder holds train.en and train.de, one sentence a line, val.* and test*.* (several tests
    are put together), as text or .gz. Training pairs of more than `length` tokens are left out.
    Raises DataError with a way out.
    """
    folder, _, rest = name.partition(":")
    pair, _, chosen = rest.partition(":")
    source, _, target = pair.partition("-")
    if not (source and target):
        raise DataError(f"{name}: give the languages as {folder}:SOURCE-TARGET, such as en-de")
    known = options.read(f"{folder}:{pair}", chosen, dict.fromkeys(USUAL, int))
    settings = {**USUAL, **known}
    if settings["vocabulary"] < 300 or settings["length"] < 8:
        raise DataError(f"{name}: a vocabulary needs 300 tokens or more, a length 8 or more")
    texts = {
        split: _pairs(Path(folder), pattern, source, target)
        for split, pattern in (("train", "train"), ("val", "val"), ("test", "test*"))
    }
    tokenizer = _tokenizer(texts["train"], settings["vocabulary"])
    splits = {
        split: _sentences(tokenizer, pairs, settings["length"], keep=split != "train")
        for split, pairs in texts.items()
    }
    if len(splits["train"]) < 2:
        raise DataError(f"{name}: fewer than two training pairs of {settings['length']} tokens")
    written = options.written(f"{Path(folder).name}:{pair}", known)
    size = tokenizer.get_vocab_size()
    return Translation(
        written, splits, tokenizer.to_str(), size, settings["length"], _digest(splits)
    )


def _pairs(folder: Path, pattern: str, *languages: str) -> list[tuple[str, str]]:
    sides = [
        [line for file in _files(folder, pattern, language) for line in _lines(file)]
        for language in languages
    ]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{folder}: {pattern} has {len(sides[0]):,} lines of {languages[0]} but "
            f"{len(sides[1]):,} of {languages[1]}; line i of one must be that of the other"
        )
    return [(a, b) for a, b in zip(*sides, strict=True) if a and b]


def _files(folder: Path, pattern: str, language: str) -> list[Path]:
    found = [f for end in ("", ".gz") for f in folder.glob(f"{pattern}.{language}{end}")]
    if not found:
        raise DataError(
            f"no {folder}/{pattern}.{language} (or .gz); --dataset FOLDER:en-de takes a folder "
            "with train, val and test, each with .en and .de, one sentence a line"
        )
    return sorted(found)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file} is no file but a pipe, a device or a folder; give text or .gz")
    try:
        lines = content_of(file, ROOM).decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return [line.strip() for line in (lines if lines[-1] else lines[:-1])]


def _tokenizer(pairs: Sequence[tuple[str, str]], vocabulary: int) -> Any:
    """Byte-pair encoding of both languages together (Sennrich et al. 2016)."""
    try:
        import sacrebleu  # noqa: F401  (needed later, to score)
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise DataError(
            f"translation needs {error.name}: python -m pip install sacrebleu tokenizers"
        ) from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((side for pair in pairs for side in pair), trainer)
    return tokenizer


def _sentences(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], length: int, *, keep: bool
) -> Sentences:
    """Tokens with END; long pairs are cut where they must be kept, else left out."""
    sides = [
        [e.ids for e in tokenizer.encode_batch(list(side))] for side in zip(*pairs, strict=True)
    ]
    kept = [i for i in range(len(pairs)) if keep or all(len(s[i]) < length for s in sides)]
    source, target = ([[*side[i][: length - 1], END] for i in kept] for side in sides)
    text = tuple(pairs[i][1] for i in kept) if keep else ()
    return Sentences(*_packed(source), *_packed(target), text)


def _packed(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens, and where each row begins."""
    tokens = np.array([token for row in rows for token in row], np.int64)
    return tokens, np.cumsum([0, *map(len, rows)])


def _digest(splits: dict[str, Sentences]) -> str:
    sha = hashlib.sha256()
    for split in splits.values():
        for array in (split.source, split.source_at, split.target, split.target_at):
            sha.update(array.tobytes())
        sha.update("\n".join(split.text).encode())
    return sha.hexdigest()[:16]


class TranslationTask:
    """Cross-entropy of the next token, and the BLEU / 100 of greedy translations."""

    def __init__(self, data: Translation, device: torch.device) -> None:
        self.device = device
        self.length = data.length
        self.text = {name: split.text for name, split in data.splits.items()}
        self.tokenizer_text = data.tokenizer
        self.source = {n: _cut(s.source, s.source_at) for n, s in data.splits.items()}
        self.target = {n: _cut(s.target, s.target_at) for n, s in data.splits.items()}

    def batches(self, recipe: Recipe, seed: int, start: int = 0) -> Iterator[Batch]:
        """Source (N, S) and target (N, T), padded; sentences of like length together, the batches
        in random order, from number `start` on; the same for the same seed."""
        random = np.random.default_rng(seed)
        sources, targets = self.source["train"], self.target["train"]
        size = min(recipe.batch_size, len(sources))
        lengths = np.array([max(len(s), len(t)) for s, t in zip(sources, targets, strict=True)])
        while True:
            order = random.permutation(len(sources)) if recipe.shuffle else np.arange(len(sources))
            batches: list[np.ndarray] = []
            for at in range(0, len(order), POOL * size):
                pool = order[at : at + POOL * size]
                pool = pool[np.argsort(lengths[pool], kind="stable")]
                batches += [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
            if recipe.shuffle:
                batches = [batches[i] for i in random.permutation(len(batches))]
            for index in batches[start:]:
                yield self._padded(sources, index), self._padded(targets, index)
            start = max(0, start - len(batches))

    def _padded(self, sentences: list[torch.Tensor], index: Sequence[int] | np.ndarray) -> Any:
        rows = [sentences[i] for i in index]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
        return on_device(padded, self.device)

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
        source, target = batch
        before = F.pad(target[:, :-1], (1, 0), value=START)
        with autocast(recipe, self.device):
            logits = model(source, before)
            return F.cross_entropy(
                logits.flatten(0, 1).float(),
                target.flatten(),
                ignore_index=PADDING,
                label_smoothing=recipe.label_smoothing,
            )

    @torch.no_grad()
    def score(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: str,
        examples: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> float:
        """BLEU / 100 of the split, or of its first `examples` (sacrebleu, 13a tokens, one
        reference); raises Diverged for logits that are not finite."""
        import sacrebleu
        from tokenizers import Tokenizer

        model.eval()
        sources = self.source[split][:examples]
        tokenizer = Tokenizer.from_str(self.tokenizer_text)
        found = [""] * len(sources)
        order = np.argsort([len(s) for s in sources], kind="stable")
        for start in range(0, len(order), EVALUATION_BATCH):
            index = order[start : start + EVALUATION_BATCH]
            source = self._padded(sources, index)
            longest = min(source.shape[1] + LONGER, 2 * self.length)
            with autocast(recipe, self.device):
                tokens, finite = model.translate(source, longest)  # pyright: ignore
            if not bool(finite):
                raise not_finite("logits", split)
            for i, row in zip(index, tokens.tolist(), strict=True):
                end = row.index(END) if END in row else len(row)
                found[i] = tokenizer.decode(row[:end])
            beat()
        references = list(self.text[split][: len(found)])
        score = sacrebleu.corpus_bleu(found, [references]).score
        return min(1.0, score / 100)  # a perfect one is 100.00000000000004


def _cut(tokens: np.ndarray, at: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(tokens[a:b]) for a, b in pairwise(at.tolist())]
