"""Damaged and hostile data: a sentence that names them, within seconds and within memory."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actsearch.child_models.data.data import DataError
from actsearch.child_models.data.image_folder import _listed
from actsearch.child_models.data.labelled import make_dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.data.torchvision_import import import_torchvision

# Loads each of the names with 400 MB more of address space than the imports have taken.
LIMITED = """
import resource, sys
import torch, PIL.Image, PIL.JpegImagePlugin, PIL.PngImagePlugin
import actsearch.child_models.data.sources, tokenizers, sacrebleu
from actsearch.child_models.data.data import DataError
from actsearch.child_models.data.sources import load
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    try:
        load(name)
    except DataError as error:
        print(error)
"""
in_little_memory = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def said(*names: object) -> list[str]:
    """The sentence for each of these data sets, from a process with little memory."""
    command = [sys.executable, "-c", LIMITED, *map(str, names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    return lines


def member(shape: object, content: bytes = b"", descr: str = "|u1") -> bytes:
    """An .npy file that says `shape`, whatever it holds."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def arrays(n: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x_train": rng.integers(0, 255, (n, 6, 6), np.uint8), "y_train": np.arange(n) % 3}


@pytest.mark.parametrize("label", [41, 10**9, 2**31, 2**40, np.iinfo(np.int64).max])
def test_a_label_beyond_the_examples_is_refused_before_a_network_has_an_output_for_it(
    label: int,
) -> None:
    data = arrays()
    data["y_train"][7] = label
    with pytest.raises(DataError, match=f"{label:,}.* number the classes from 0 without gaps"):
        make_dataset("d", (data["x_train"], data["y_train"]))
    unsigned = data["y_train"].astype(np.uint64)
    unsigned[7] = 2**63 + 5  # which as int64 is negative
    with pytest.raises(DataError, match="number the classes"):
        make_dataset("d", (data["x_train"], unsigned))


@pytest.mark.parametrize(
    ("shape", "descr"),
    [("(1000000000000,)", "|u1"), ("(4000000000, 3, 32, 32)", "<f8"), ("(-5,)", "|u1"),
     ("(3,)", "|O"), ("(99999999999999999999999,)", "<f4"), ("'many'", "|u1"), ("(3,", "|u1"),
     ("(3,)", "|u0x")],
)  # fmt: skip
def test_a_shape_that_an_npz_only_claims_takes_no_memory(
    tmp_path: Path, shape: str, descr: str
) -> None:
    path = archive(
        tmp_path / "claims.npz",
        x_train=member(shape, b"123", descr),
        y_train=member("(3,)", b"123"),
    )
    with pytest.raises(DataError, match=r"claims\.npz is no readable \.npz"):
        load(str(path))


BOMB = 640 * 2**20  # bytes that a bomb unpacks to, which `LIMITED` does not leave room for


def zip_bomb(path: Path) -> Path:
    """A file of a hundredth of the bytes that it unpacks to, all of which are there."""
    size = BOMB
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("x_train.npy", "w", force_zip64=True) as part:
            part.write(member((size, 1)))
            for _ in range(size // 2**24):
                part.write(bytes(2**24))
        with file.open("y_train.npy", "w") as part:
            part.write(member((3,), b"123"))
    assert path.stat().st_size < BOMB / 100
    return path


def sentence_bomb(folder: Path) -> str:
    """The same as one sentence."""
    pairs(folder)
    (folder / "train.en").unlink()
    with gzip.open(folder / "train.en.gz", "wb", compresslevel=1) as file:
        for _ in range(BOMB // 2**24):
            file.write(bytes(2**24))
    return f"{folder}:en-de"


def many_images(folder: Path) -> Path:
    """300 of 9 megapixels, eight gigabytes, in two files with many names."""
    for i in range(300):
        file = folder / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        if i < 2:
            Image.new("RGB", (3000, 3000)).save(file)
        else:
            os.link(folder / f"class{i % 2}" / f"{i % 2}.png", file)
    return folder


def pairs(folder: Path) -> None:
    folder.mkdir()
    for name in ("train.en", "train.de", "val.en", "val.de", "test.en", "test.de"):
        (folder / name).write_text("a\nb\n")


@pytest.mark.thorough
@in_little_memory
def test_bombs_and_what_does_not_fit_are_refused_within_memory(tmp_path: Path) -> None:
    names = [
        zip_bomb(tmp_path / "bomb.npz"),
        sentence_bomb(tmp_path / "pairs"),
        many_images(tmp_path / "images"),
    ]
    sentences = said(*names)
    for sentence, name in zip(sentences, ("bomb.npz", "pairs", "images"), strict=True):
        assert str(tmp_path / name) in sentence
        assert "memory" in sentence


def test_an_npz_that_needs_more_than_the_free_memory_is_refused_by_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays(1000))
    monkeypatch.setattr("actsearch.child_models.data.data.free_memory", lambda: 80_000)
    monkeypatch.setattr("numpy.lib.format.read_array", None)
    with pytest.raises(DataError, match=r"d\.npz needs 0\.0 GiB of memory, and 0\.0 GiB are free"):
        load(str(path))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_npz_is_a_sentence_or_holds_the_same_arrays(
    tmp_path: Path, compressed: bool
) -> None:
    """Cut short at 60 lengths, and 240 bytes flipped: checksums find what headers do not."""
    data, whole = arrays(), tmp_path / "whole.npz"
    (np.savez_compressed if compressed else np.savez)(whole, **data)
    content, digest = whole.read_bytes(), load(str(whole)).digest
    path, chance = tmp_path / "damaged.npz", random.Random(0)
    refused = harmless = 0
    damaged = [content[:cut] for cut in chance.sample(range(len(content)), 60)]
    for place in chance.sample(range(len(content)), 240):
        flipped = content[place] ^ (1 << chance.randrange(8))
        damaged.append(content[:place] + bytes([flipped]) + content[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        try:
            assert load(str(path)).digest == digest
        except DataError as error:
            refused += "damaged.npz" in str(error)
        else:
            harmless += 1
    assert refused + harmless == 300
    assert refused > 200


def folder_of_images(path: Path, n: int = 20, suffix: str = ".jpg") -> list[Path]:
    """Two classes of noise."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(n):
        file = path / f"class{i % 2}" / f"{i:03d}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(file)
        files.append(file)
    return files


def a_bomb() -> bytes:
    """A PNG of a few kilobytes that says 60,000 times 60,000 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(content)


BAD_IMAGES = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "only a head": lambda content: content[:20],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"no image",
    "a bomb": lambda content: a_bomb(),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", BAD_IMAGES)
def test_a_damaged_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, streamed: bool
) -> None:
    import torch

    from actsearch.child_models.recipe import Recipe

    file = folder_of_images(tmp_path)[6]
    file.write_bytes(BAD_IMAGES[how](file.read_bytes()))
    if streamed:
        monkeypatch.setattr("actsearch.child_models.data.image_folder.IN_MEMORY", 0)
    with pytest.raises(DataError, match=rf"{file.name} (cannot be read as an image|is empty)"):
        task = load(str(tmp_path), image_size=8).on(torch.device("cpu"))
        next(task.batches(Recipe(batch_size=15), 0))
        for split, count in (("val", 1), ("test", 4)):
            next(task._read(split, iter([(0, np.arange(count))])))  # pyright: ignore


def link_to_itself(folder: Path) -> None:
    (folder / "class0" / "again").symlink_to("again")


def link_back(folder: Path) -> None:
    for name in ("one", "two"):  # with two of them each level has twice as many
        (folder / "class0" / name).symlink_to(folder / "class0")


def doubling(folder: Path) -> None:
    """No loop, but 2 ** 30 ways through 30 folders."""
    for i in range(30):
        (folder / f"class0/level{i}").mkdir()
        for way in ("a", "b"):
            (folder / f"class0/level{i}/{way}").symlink_to(folder / f"class0/level{i + 1}")


LINKS = (link_to_itself, link_back, doubling)


@in_little_memory
def test_links_that_lead_back_are_named_and_do_not_end_the_memory(tmp_path: Path) -> None:
    folders = [tmp_path / make.__name__ for make in LINKS]
    for folder, make in zip(folders, LINKS, strict=True):
        folder_of_images(folder)
        make(folder)
    itself, back, double = said(*folders)
    assert "class0/again cannot be read: Too many levels of symbolic links" in itself
    assert "link_back/class0 has already; remove the link" in back
    assert "doubling/class0 has already; remove the link" in double


@in_little_memory
def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "images")
    pairs(tmp_path / "pairs")
    (tmp_path / "pairs" / "test.de").unlink()
    pipes = ["pipe", "pipe.npz", "images/class1/pipe.jpg", "pairs/test.de"]
    for pipe in pipes:
        os.mkfifo(tmp_path / pipe)
    names = [
        tmp_path / "pipe",
        tmp_path / "pipe.npz",
        tmp_path / "images",
        f"{tmp_path}/pairs:en-de",
    ]
    for pipe, sentence in zip(pipes, said(*names), strict=True):
        assert sentence.startswith(f"{tmp_path / pipe} is ")
        assert "a pipe" in sentence


def test_sentences_that_were_cut_short_or_are_no_text_are_named(tmp_path: Path) -> None:
    pairs(tmp_path / "pairs")
    (tmp_path / "pairs" / "train.en").unlink()
    whole = gzip.compress(random.Random(0).randbytes(500))
    for content in (whole[:40], whole[:-3], whole, b"no gzip", whole[:30] + b"\xff" * 40):
        (tmp_path / "pairs" / "train.en.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"train\.en\.gz cannot be read"):
            load(f"{tmp_path}/pairs:en-de")


def test_a_folder_is_listed_as_torchvision_lists_it(tmp_path: Path) -> None:
    folder_of_images(tmp_path, suffix=".png")
    (tmp_path / "class1" / "deeper" / "down").mkdir(parents=True)
    (tmp_path / "class1" / "deep").mkdir()
    for name in ("deeper/x.JPEG", "deeper/down/a.webp", "deep/z.png", "deep-er.png", "note.txt"):
        (tmp_path / "class1" / name).write_bytes(b"")
    (tmp_path / "away").mkdir()
    (tmp_path / "away/linked.png").write_bytes(b"")
    (tmp_path / "class0" / "link").symlink_to(tmp_path / "away")
    theirs, ours = import_torchvision().datasets.ImageFolder(str(tmp_path)), _listed(tmp_path)
    assert list(ours.classes) == theirs.classes
    assert ours.samples == theirs.samples


def test_a_file_that_may_not_be_read_or_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in (str(tmp_path / "loop"), "x" * 5000, str(tmp_path / ("y" * 300))):
        with pytest.raises(DataError):
            load(name)
