"""DATASETS: every data set that has a name. No torch and no numpy here: a row says where its loader
is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actsearch.search_space.text import Option, load

# What a data set can be instead of a name.
FILES = (
    "an .npz file with x y or x_train y_train x_test y_test, a folder of images a class, "
    "FOLDER:en-de of sentences, text (a .txt or .gz file, or a folder of .txt), or an .npy file of "
    "token ids"
)


# Options of text, as stdlib:context=128,tokenizer=bpe.json.
TEXT_OPTIONS = (
    Option("context", int, 64, "Tokens that a child sees."),
    Option(
        "tokenizer",
        str,
        None,
        "A tokenizer.json of the package tokenizers, which splits the text; without it tokens are "
        "bytes.",
    ),
)
STDLIB_OPTIONS = (
    *TEXT_OPTIONS,
    Option(
        "library",
        str,
        None,
        "The folder of another Python's standard library, as /usr/lib/python3.11, so that machines "
        "with different versions train on the same text.",
    ),
)


@dataclass(frozen=True)
class Row:
    """A data set in a few words, the name of its loader in sources.py, and its options."""

    text: str
    loader: str
    options: tuple[Option, ...] = ()

    def __call__(self, name: str, root: Any, download: bool) -> Any:
        return load(f"{__package__}.sources:{self.loader}")(name, root, download)


DATASETS: Mapping[str, Row] = {
    "mnist5k": Row("5,000 MNIST digits that come with the installation", "mnist5k"),
    "cifar10": Row("60,000 colour images of 10 classes, 32x32", "cifar10"),
    "cifar100": Row("60,000 colour images of 100 classes, 32x32", "cifar100"),
    "mnist": Row("70,000 digits, 28x28, grey", "mnist"),
    "svhn": Row("99,289 house numbers in colour, 32x32", "svhn"),
    "stdlib": Row(
        "text: the sources of Python's standard library, as installed", "stdlib", STDLIB_OPTIONS
    ),
}
