"""Tokens: text as any tokenizer of the package `tokenizers` splits it, with the bytes that each
token covers, so that a score per byte compares tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actsearch.child_models.data.data import DataError, first_line

CHUNK = 2**16  # letters that are encoded at once, to the end of a line


class Tokenizer:
    """That of the file `path`, as tokenizers.Tokenizer.save writes it. Raises DataError where there
    is none, or the package is not installed."""

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise DataError(
                "text with tokenizer= needs the package tokenizers, which is not installed: "
                "python -m pip install tokenizers"
            ) from error
        if not path.is_file():
            raise DataError(f"no file {path}; tokenizer= takes a tokenizer.json")
        self.path = path
        self.content = path.read_bytes()
        try:
            self._own: Any = tokenizers.Tokenizer.from_buffer(self.content)
        except Exception as error:  # of whatever the file lacks
            raise DataError(
                f"{path} is no tokenizer ({first_line(error)}); give a tokenizer.json, as the "
                "package tokenizers saves one"
            ) from error
        self._own.no_truncation()
        self._own.no_padding()
        self._own.post_processor = None  # it would trim spaces from what a token covers
        if hasattr(self._own.model, "dropout"):  # of BPE: other tokens each time
            self._own.model.dropout = None

    @property
    def vocabulary(self) -> int:
        """One more than the greatest token, which added ones may leave above their count."""
        return 1 + max(self._own.get_vocab().values(), default=0)

    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of UTF-8, and how many bytes each covers beyond those before it, whose sum is all
        of them. Letters that are cut off at either end are left out. Raises DataError where the
        text does not come back from its tokens: bits per byte would be those of another text."""
        chunks = list(_chunks(content.decode(errors="ignore")))
        found = self._own.encode_batch(chunks, add_special_tokens=False)
        back = self._own.decode_batch([e.ids for e in found], skip_special_tokens=False)
        for chunk, again in zip(chunks, back, strict=True):
            if chunk != again:
                raise DataError(self._lost(chunk, again))
        tokens = [np.array(e.ids, np.int32) for e in found]
        covered = [_covered(c, e.offsets) for c, e in zip(chunks, found, strict=True)]
        empty = np.empty(0, np.int32)
        return np.concatenate([empty, *tokens]), np.concatenate([empty, *covered])

    def _lost(self, chunk: str, again: str) -> str:
        same = zip(chunk, again, strict=False)
        at = next((i for i, (a, b) in enumerate(same) if a != b), min(len(chunk), len(again)))
        was, became = (text[max(0, at - 8) : at + 8] for text in (chunk, again))
        return (
            f"{self.path} does not keep the text: {was!r} comes back from its tokens as "
            f"{became!r}, so bits per byte would be those of another text; give a tokenizer that "
            "keeps every byte, such as a byte-level one"
        )


def _chunks(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = at + CHUNK
        if end < len(text):
            end = text.rfind("\n", at, end) + 1 or end
        yield text[at:end]
        at = end


def _covered(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Bytes from the end of the token before to the end of each; the last reaches the end."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + sum((points > most).astype(np.int64) for most in (0x7F, 0x7FF, 0xFFFF))
    ends_of_letters = np.concatenate([[0], np.cumsum(sizes)])
    ends = np.maximum.accumulate(ends_of_letters[[end for _, end in offsets]])
    ends[-1] = ends_of_letters[-1]
    return np.diff(ends, prepend=0).astype(np.int32)
