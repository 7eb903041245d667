"""Language models: the GPT, text as bytes, bits per byte, and the recipe that comes with them."""

from __future__ import annotations

import gzip
import hashlib
import math
import pickle
import sys
import sysconfig
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from actsearch import cli
from actsearch.child_models.data.data import DataError
from actsearch.child_models.data.labelled import Dataset
from actsearch.child_models.data.sources import load
from actsearch.child_models.data.text import Text, TextTask, make_text
from actsearch.child_models.data.tokens import Tokenizer
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.gpt import GPT
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.child_models.training.loop import Diverged
from actsearch.child_models.training.optimisers import optimiser_of, step_of
from actsearch.results.records import Trial
from actsearch.search_space.kernels import compiler
from actsearch.searching.building import make_evaluator
from actsearch.settings import resolve

SMALL = "gpt:width=16,layers=1,heads=2"
CPU = torch.device("cpu")


def relu(width: int, *, channel_dim: int = 1, gated: int = 0) -> nn.Module:
    return nn.ReLU()


def trial(expression: str = "relu(x)", kind: str = "search", seed: int = 0) -> Trial:
    return Trial(0, kind, expression, "", seed)


@pytest.fixture(scope="module")
def counting() -> Text:
    """A text in which each byte follows from the one before."""
    text = bytes(range(32, 127)) * 40
    return make_text("counting", {"train": text, "val": text[:900], "test": text[50:900]}, 16)


@pytest.fixture(scope="module")
def stdlib() -> Text:
    found = load("stdlib")
    assert isinstance(found, Text)
    return found


# -- the network


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_gpt_2_small_has_the_published_parameters() -> None:
    """124,439,808, those of the weights that OpenAI released (Radford et al. 2019)."""
    child = child_from("gpt:width=768,layers=12,heads=12,tied=1")
    with torch.device("meta"):
        assert count(child(relu, vocabulary=50_257, context=1_024)) == 124_439_808


def test_the_usual_gpt_has_the_parameters_of_its_layers() -> None:
    """By hand: embeddings, and in each layer three matrices of attention, its output, an MLP of
    four times the width, and two normalisations."""
    layer = 3 * (64 * 64 + 64) + 64 * 64 + 64 + 64 * 256 + 256 + 256 * 64 + 64 + 2 * 128
    model = child_from("gpt")(relu, vocabulary=128, context=64)
    assert count(model) == 128 * 64 + 64 * 64 + 2 * layer + 128 + 64 * 128 == 120_576


def test_every_mlp_has_the_candidate_on_its_last_dimension() -> None:
    made: list[tuple[int, int]] = []

    def make(width: int, *, channel_dim: int = 1, gated: int = 0) -> nn.Module:
        made.append((width, channel_dim))
        return nn.ReLU()

    child_from("gpt:width=24,layers=3,heads=2")(make, vocabulary=50, context=10)
    assert made == [(96, -1)] * 3


def test_no_byte_sees_those_after_it() -> None:
    torch.manual_seed(0)
    model = GPT(relu, 50, 12, width=16, layers=2, heads=2)
    for parameter in model.parameters():  # the branches begin as 0
        nn.init.normal_(parameter)
    tokens = torch.randint(50, (2, 12))
    before = model(tokens)
    tokens[:, 7:] = (tokens[:, 7:] + 1) % 50
    after = model(tokens)
    assert torch.allclose(after[:, :7], before[:, :7], atol=1e-4)
    assert not torch.allclose(after[:, 7], before[:, 7], atol=1e-1)
    assert torch.allclose(model(tokens[:, :5]), after[:, :5], atol=1e-4)


def test_initial_weights_give_the_candidate_inputs_of_its_own_scale() -> None:
    torch.manual_seed(0)
    inputs: list[torch.Tensor] = []

    def make(width: int, *, channel_dim: int = 1, gated: int = 0) -> nn.Module:
        act = nn.Identity()
        act.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        return act

    model = GPT(make, 128, 64, width=64, layers=2, heads=4)
    model(torch.randint(128, (8, 64)))
    assert [round(x.std().item(), 1) for x in inputs] == [1.0, 1.0]
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(block.down.weight.any() for block in model.blocks)  # type: ignore[union-attr]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="width=10 must be a multiple of heads=4"):
        child_from("gpt:width=10")(relu, vocabulary=128, context=64)


# -- the data


def test_the_standard_library_is_split_by_the_paths_of_its_files(stdlib: Text) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    text = {name: part.tobytes() for name, part in stdlib.splits.items()}
    for path in ("argparse.py", "ast.py", "json/decoder.py", "typing.py", "asyncio/tasks.py"):
        tenth = int(hashlib.sha256(path.encode()).hexdigest(), 16) % 10
        own = "val" if tenth == 0 else "test" if tenth == 1 else "train"
        content = (library / path).read_bytes()
        assert [name for name, part in text.items() if content in part] == [own], path
    assert not any(b"class BaseHTTPServerTestCase" in part for part in text.values())
    assert 3_000_000 < len(text["train"]) < 12_000_000
    assert stdlib.facts == {"vocabulary": 128, "context": 64}
    assert stdlib.sizes["val"] == stdlib.sizes["test"] == 512


def test_a_table_says_which_pythons_library_it_was(stdlib: Text) -> None:
    import platform

    assert stdlib.name == f"stdlib (Python {platform.python_version()})"
    other = load("stdlib:context=32")
    assert other.name.startswith("stdlib:context=32 (Python")
    assert load("stdlib").digest == stdlib.digest != other.digest
    library = sysconfig.get_path("stdlib")  # another's, for machines with different versions
    same = load(f"stdlib:library={library}")
    assert same.name == f"stdlib:library={Path(library).name}"
    assert same.digest == stdlib.digest
    with pytest.raises(DataError, match=r"nowhere holds no sources of Python's standard library"):
        load("stdlib:library=nowhere")


def test_each_file_of_a_folder_gives_every_split_its_share(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for name, letter in (("b.txt", b"b"), ("a.txt", b"a"), ("part/c.txt", b"c")):
        (tmp_path / name).write_bytes(letter * 100)
    (tmp_path / "notes.md").write_bytes(b"\xff")  # no .txt, so it is not read
    data = load(f"{tmp_path}:context=20")
    assert isinstance(data, Text)
    held = {name: part.tobytes() for name, part in data.splits.items()}
    assert held["train"] == b"a" * 80 + b"b" * 80 + b"c" * 80
    assert held["val"] == held["test"] == b"a" * 10 + b"b" * 10 + b"c" * 10
    assert data.sizes == {"train": 239 // 20, "val": 29 // 20, "test": 29 // 20}


def test_other_letters_than_ascii_have_256_tokens(tmp_path: Path) -> None:
    file = tmp_path / "prose.txt"
    file.write_text("Öl und Käse. " * 200, encoding="utf-8")
    assert load(str(file)).facts == {"vocabulary": 256, "context": 64}


def test_a_folder_of_images_stays_one_whatever_else_it_holds(tmp_path: Path) -> None:
    for i in range(30):
        folder = tmp_path / f"class{i % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), i, np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "LICENCE.txt").write_text("Do as you like. " * 100)
    assert isinstance(load(str(tmp_path)), Dataset)


def _text(content: bytes) -> Any:
    def write(folder: Path) -> str:
        (folder / "mine.txt").write_bytes(content)
        return str(folder / "mine.txt")

    return write


# -- tokens of a tokenizer

PROSE = "Die Käserei öffnet um acht, und wer früh kommt, bekommt frischen Käse.\n" * 60


@pytest.fixture
def bpe(tmp_path: Path) -> str:
    """A byte-level tokenizer of 300 tokens that also saves how to cut and fill sentences."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        PROSE.splitlines()[:2],
        tokenizers.trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=alphabet, show_progress=False
        ),
    )
    made.enable_truncation(5)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "bpe.json"))
    return str(tmp_path / "bpe.json")


def _prose(folder: Path, name: str = "prose.txt") -> str:
    file = folder / name
    opened = gzip.open if name.endswith(".gz") else open
    with opened(file, "wb") as binary:
        binary.write(PROSE.encode())
    return str(file)


def test_text_in_gz_is_that_text(tmp_path: Path) -> None:
    plain = load(_prose(tmp_path))
    packed = load(_prose(tmp_path, "prose.gz"))
    folder = tmp_path / "folder"
    folder.mkdir()
    _prose(folder, "prose.txt.gz")
    assert plain.digest == packed.digest == load(str(folder)).digest


def test_tokens_are_those_of_the_tokenizer_and_cover_every_byte(tmp_path: Path, bpe: str) -> None:
    file = _prose(tmp_path)
    bytes_, tokens = load(file), load(f"{file}:context=8,tokenizer={bpe}")
    assert isinstance(bytes_, Text)
    assert isinstance(tokens, Text)
    assert tokens.name == "prose.txt:context=8,tokenizer=bpe.json"
    assert tokens.facts == {"vocabulary": 300, "context": 8}
    assert tokens.digest != load(f"{file}:context=8").digest
    own = pytest.importorskip("tokenizers").Tokenizer.from_file(bpe)
    for split, part in bytes_.splits.items():
        whole = part.tobytes().decode(errors="ignore")  # the cut may go through a letter
        assert own.decode(tokens.splits[split].tolist()) == whole
        assert tokens.lengths[split].sum() == len(whole.encode())
        assert len(tokens.splits[split]) < len(part) / 2


def test_a_tokenizer_is_used_without_chance_and_its_tokens_cover_their_spaces(
    tmp_path: Path, bpe: str
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer.from_file(bpe)
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    own.train_from_iterator(
        ["ab  c  "] * 9, tokenizers.trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    own.model.dropout = 0.5
    own.save(str(tmp_path / "own.json"))
    tokenizer = Tokenizer(tmp_path / "own.json")
    tokens, covered = tokenizer.encode(b"ab  c  " * 40)
    # In a byte-level vocabulary each letter is a byte.
    assert [len(own.id_to_token(int(token))) for token in tokens] == covered.tolist()
    assert max(covered) > 1
    assert np.array_equal(tokens, tokenizer.encode(b"ab  c  " * 40)[0])


def test_bits_per_byte_are_those_of_the_bytes_that_the_tokens_cover(
    tmp_path: Path, bpe: str
) -> None:
    data = load(f"{_prose(tmp_path)}:context=8,tokenizer={bpe}")
    assert isinstance(data, Text)

    class Uniform(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 300)

    task = TextTask(data, CPU)
    found = task.score(Uniform(), Recipe(), "val", 3)
    part = data.splits["val"]
    starts = [0, (len(part) - 9) // 2, len(part) - 9]
    own = pytest.importorskip("tokenizers").Tokenizer.from_file(bpe)
    read = [part[: at + 9].tolist() for at in starts]
    covered = sum(
        len(own.decode(ids).encode()) - len(own.decode(ids[:-8]).encode()) for ids in read
    )
    assert found == pytest.approx(3 * 8 * math.log2(300) / covered, rel=1e-2)


def test_a_child_learns_from_tokens(tmp_path: Path, bpe: str) -> None:
    data = load(f"{_prose(tmp_path)}:context=8,tokenizer={bpe}")
    evaluator = Evaluator(data, child_from(SMALL), Recipe(steps=30, batch_size=8, lr=0.01))
    outcome = evaluator(trial())
    assert outcome.status == "ok"
    assert 0 < (outcome.val_score or 0) < 8 * math.log(300) / math.log(256)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"no file .*none.json; tokenizer= takes a tokenizer.json"),
        ("{}", r"none.json is no tokenizer \(.*\); give a tokenizer.json"),
        ("lower", r"does not keep the text: 'Die .*' comes back .* as 'die .*byte-level"),
        ("short", r"48 tokens to train on are too few for a context of 64"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_gets_a_sentence(
    tmp_path: Path, bpe: str, content: str | None, sentence: str
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "none.json"
    text = Path(_prose(tmp_path))
    if content == "{}":
        path.write_text(content)
    elif content is not None:
        own = tokenizers.Tokenizer.from_file(bpe)
        if content == "lower":
            own.normalizer = tokenizers.normalizers.Lowercase()
        else:
            text.write_text("Käse" * 20)
        own.save(str(path))
    with pytest.raises(DataError, match=sentence):
        load(f"{text}:tokenizer={path}")


def test_without_the_package_it_is_said_how_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"tokenizer= needs .* pip install tokenizers"):
        load(f"{_prose(tmp_path)}:tokenizer=x.json")


# -- what cannot be used


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (_text(b"short" * 20), "mine.txt: 10 bytes to validate on are too few for a context of 64"),
        (
            _text(b"too short " * 50),
            "of about 650 bytes or more, or a shorter .* mine.txt:context=16$",
        ),
        (
            _text(b"too short to be of any use.\n"),
            "; give a longer text, of about 650 bytes or more$",
        ),
        (
            _text(b""),
            "0 bytes to train on are too few .*; give a longer text, of about 650 bytes or",
        ),
        (_text(b"\x89PNG\xff" * 500), "mine.txt is no text: byte 0 is not UTF-8"),
        (_text(b"text\0" * 500), "mine.txt is no text: byte 4 is 0"),
        (lambda folder: str(folder), "is no folder of images a class: .*and no .txt"),
        (lambda folder: str(folder / "none.txt"), "no file or folder .*none.txt"),
        (lambda folder: "stdlib:contxt=3", "did you mean 'context'"),
        (lambda folder: "stdlib:tokenizer=", "tokenizer= needs a value"),
        (lambda folder: "stdlib:context=0", "context=0 needs a whole number of 1 or more"),
        (lambda folder: "stdlib:context=1000000000", "too few for a context of 1000000000"),
        (lambda folder: "mnist5k:context=3", "mnist5k takes no options; text does"),
    ],
)
def test_text_that_cannot_be_used_gets_a_sentence(
    tmp_path: Path, given: Any, sentence: str
) -> None:
    with pytest.raises((DataError, ValueError), match=sentence):
        load(given(tmp_path))


def test_nothing_is_trained_on_text_that_is_too_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("short")
    asked = ["search", "run", "--child", "gpt", "--dataset", "mine.txt", "--executor", "inline"]
    assert cli.main(asked) != 0
    told = capsys.readouterr().err
    assert "mine.txt: 4 bytes to train on are too few for a context of 64" in told
    assert not Path("run", "run.sqlite").exists()


@pytest.mark.parametrize("child", ["resnet8", "transformer"])
def test_other_children_refuse_text(counting: Text, child: str) -> None:
    with pytest.raises(ValueError, match=r"asks for .*text with gpt"):
        Evaluator(counting, child_from(child), Recipe()).build("relu(x)")


def test_a_batch_is_windows_of_the_text_and_what_follows_each_byte(counting: Text) -> None:
    task = TextTask(counting, CPU)
    text = counting.splits["train"].tobytes()
    recipe = Recipe(batch_size=5)
    found = list(islice(task.batches(recipe, seed=3), 4))
    for tokens, following in found:
        assert tokens.shape == following.shape == (5, 16)
        assert tokens.is_contiguous()  # a CUDA graph takes no other
        assert following.is_contiguous()
        for row, next_ones in zip(tokens.tolist(), following.tolist(), strict=True):
            assert bytes([*row, next_ones[-1]]) in text
            assert row[1:] == next_ones[:-1]
    for start in (0, 2):
        for batch, again in zip(found[start:], task.batches(recipe, 3, start), strict=False):
            assert torch.equal(batch[0], again[0])
    assert not torch.equal(found[0][0], next(task.batches(recipe, seed=4))[0])


def test_without_shuffling_batches_go_through_the_text_in_its_order(counting: Text) -> None:
    batches = TextTask(counting, CPU).batches(Recipe(batch_size=3, shuffle=False), seed=0)
    tokens = torch.cat([next(batches)[0] for _ in range(2)])
    assert bytes(tokens.flatten().tolist()) == counting.splits["train"].tobytes()[: 6 * 16]


class Oracle(nn.Module):
    """Says the byte after each with this much above all others."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = sure

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        following = (tokens - 32 + 1) % 95 + 32
        return self.sure * nn.functional.one_hot(following, 128).float()


@pytest.mark.parametrize(
    ("sure", "bits"), [(0.0, 7.0), (100.0, 0.0), (math.log(129), math.log2(256 / 129))]
)
def test_bits_per_byte_are_those_of_shannon(counting: Text, sure: float, bits: float) -> None:
    task = TextTask(counting, CPU)
    assert task.score(Oracle(sure), Recipe(), "val") == pytest.approx(bits, abs=1e-6)
    assert task.score(Oracle(sure), Recipe(), "val", 3) == pytest.approx(bits, abs=1e-6)


def test_logits_that_are_not_finite_are_no_score(counting: Text) -> None:
    with pytest.raises(Diverged, match="not finite on the val split"):
        TextTask(counting, CPU).score(Oracle(float("nan")), Recipe(), "val")


# -- the recipe


def test_the_rate_climbs_for_a_thirtieth_and_falls_to_a_tenth() -> None:
    recipe = Recipe(steps=600, schedule="warm-cosine")
    assert [recipe.lr_factor(step) for step in (0, 9)] == pytest.approx([1 / 20, 1 / 2], rel=1e-3)
    assert recipe.lr_factor(300) == pytest.approx(0.55)
    assert recipe.lr_factor(599) == pytest.approx(0.1, abs=1e-4)
    assert max(map(recipe.lr_factor, range(600))) == pytest.approx(1.0, abs=3e-3)


def test_adamw_decays_matrices_and_embeddings_alone() -> None:
    model = child_from("gpt:width=8,layers=1,heads=2")(relu, vocabulary=128, context=8)
    decayed, free = optimiser_of(model, RECIPES["gpt"]).param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert decayed["betas"] == (0.9, 0.95)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_a_longer_gradient_is_scaled_to_the_clip_and_a_shorter_one_kept(counting: Text) -> None:
    task = TextTask(counting, CPU)
    for clip, expected in ((0.0, None), (1e-3, 1e-3), (1e3, None)):
        torch.manual_seed(0)
        model = child_from(SMALL)(relu, **counting.facts)
        recipe = Recipe(batch_size=4, optimiser="adamw", clip=clip)
        step = step_of(model, optimiser_of(model, recipe), task, recipe)
        _, norm = step(next(task.batches(recipe, 0)))
        left = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))  # type: ignore
        assert norm.item() > 0.1  # what is looked at is the gradient as it was
        assert left == pytest.approx(expected or norm.item(), rel=1e-4)


@pytest.mark.parametrize("clip", [-1.0, math.inf, math.nan])
def test_a_clip_is_a_number_from_0(clip: float) -> None:
    with pytest.raises(ValueError, match="must be a number of 0 or more"):
        Recipe(clip=clip)


def test_a_gpt_comes_with_its_recipe_where_nothing_else_is_said() -> None:
    usual = resolve({"child": "gpt:width=32", "steps": 40})
    assert (usual.steps, usual.lr, usual.batch_size) == (40, 3e-3, 8)
    assert (usual.optimiser, usual.clip, usual.weight_decay) == ("adamw", 1.0, 0.1)
    assert resolve({"child": "gpt", "recipe": "he2016a"}).optimiser == "sgd"
    assert resolve({"child": "resnet8"}).optimiser is None
    # a run goes on as it was, and other runs re-evaluate in a GPT by its recipe
    assert resolve({"budget": 5}, vars(usual)).steps == 40
    assert resolve({"child": "gpt"}, vars(resolve({"child": "mlp", "steps": 7}))).steps == 600


# -- training


def test_a_gpt_learns_to_count(counting: Text) -> None:
    recipe = Recipe(**{**vars(RECIPES["gpt"]), "steps": 60, "lr": 1e-2})
    evaluate = Evaluator(counting, child_from(SMALL), recipe, test=True, inspect=True)
    outcome = evaluate(trial("mul(x, sigmoid(scale(x)))", kind="reevaluate"))
    assert outcome.status == "ok", outcome.reason
    assert outcome.curve[0][1] == pytest.approx(math.log(128), abs=0.1)
    assert outcome.val_score is not None
    assert outcome.test_score is not None
    assert max(outcome.val_score, outcome.test_score) < 2.5  # of 7 at first
    assert len(outcome.details["betas"][0]) == 64


@pytest.mark.skipif(compiler.compiler() is None, reason="needs a C compiler")
def test_generated_and_eager_activations_train_alike(counting: Text) -> None:
    recipe = Recipe(**{**vars(RECIPES["gpt"]), "steps": 8})
    losses = [
        Evaluator(counting, child_from(SMALL), recipe, kernels=kernels)(trial("gelu(x)"))
        for kernels in ("eager", "generated")
    ]
    assert losses[0].curve[-1][1] == pytest.approx(losses[1].curve[-1][1], rel=1e-4)


def test_text_and_its_evaluator_travel_to_workers(counting: Text) -> None:
    evaluate = Evaluator(
        counting, child_from(SMALL), Recipe(**{**vars(RECIPES["gpt"]), "steps": 2})
    )
    there = pickle.loads(pickle.dumps(evaluate))
    assert there(trial()).curve == evaluate(trial()).curve
    assert there.protocol_hash == evaluate.protocol_hash


def test_the_standard_library_is_searched_by_bits_per_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    asked = [
        "search",
        run,
        "--child",
        SMALL,
        "--dataset",
        "stdlib",
        "--budget",
        "2",
        "--steps",
        "8",
    ]
    assert cli.main([*asked, "--executor", "inline"]) == 0
    told = capsys.readouterr()
    assert "stdlib (Python" in told.out + told.err
    assert "val bits per byte" in told.out


def test_a_gpt_and_its_text_fit_together_from_settings(stdlib: Text) -> None:
    settings = resolve({"child": "gpt", "dataset": stdlib, "steps": 3})
    evaluate = make_evaluator(settings)
    outcome = evaluate(trial())
    assert outcome.status == "ok"
    assert outcome.val_score is not None
    assert 5.0 < outcome.val_score < 7.0
