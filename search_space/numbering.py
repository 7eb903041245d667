"""Mixed-radix numbers: point i of a space is the i-th setting of a row of digits."""

from __future__ import annotations

import math
from collections.abc import Sequence

Digits = tuple[int, ...]


def digits_of(index: int, radices: Digits) -> Digits:
    """Unrank: the digits of point `index`, most significant first."""
    size = math.prod(radices)
    if not 0 <= index < size:
        raise IndexError(f"point {index} is outside 0..{size - 1}")
    digits: list[int] = []
    for radix in reversed(radices):
        index, digit = divmod(index, radix)
        digits.append(digit)
    return tuple(reversed(digits))


def index_of(digits: Sequence[int], radices: Digits) -> int:
    """Rank: the point that these digits stand for."""
    check_digits(digits, radices)
    index = 0
    for digit, radix in zip(digits, radices, strict=True):
        index = index * radix + digit
    return index


def check_digits(digits: Sequence[int], radices: Digits) -> None:
    """Raises ValueError where they are not the digits of a point."""
    if len(digits) != len(radices):
        raise ValueError(f"this space has {len(radices)} digits, not {len(digits)}")
    for t, (digit, radix) in enumerate(zip(digits, radices, strict=True)):
        if not 0 <= digit < radix:
            raise ValueError(f"digit {t} is {digit}; it goes from 0 to {radix - 1}")
