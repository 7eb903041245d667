"""Translation: the Transformer, sentences as tokens, BLEU."""

from __future__ import annotations

import gzip
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actsearch import cli
from actsearch.child_models.data.data import DataError
from actsearch.child_models.data.sources import load
from actsearch.child_models.data.translation import Translation, TranslationTask
from actsearch.child_models.evaluate import Evaluator
from actsearch.child_models.networks.transformer import END, PADDING, START, Transformer, positions
from actsearch.child_models.networks.zoo import child_from
from actsearch.child_models.recipe import RECIPES, Recipe
from actsearch.child_models.training.loop import Diverged
from actsearch.results.records import Trial
from actsearch.search_space.activation import Activation
from actsearch.search_space.kernels import compiler

SMALL = "transformer:width=32,layers=1,heads=2,feedforward=64"
WORDS = ("red", "blue", "green", "two", "three", "cats", "dogs", "run", "sleep", "here")
GERMAN = ("rot", "blau", "grün", "zwei", "drei", "Katzen", "Hunde", "laufen", "schlafen", "hier")


def relu(width: int, *, channel_dim: int = 1, gated: int = 0) -> nn.Module:
    return nn.ReLU()


def write_pairs(folder: Path, sizes: dict[str, int]) -> Path:
    """A language in which word i of the one is word i of the other."""
    chosen = random.Random(0)
    for split, size in sizes.items():
        rows = [chosen.choices(range(10), k=chosen.randint(2, 6)) for _ in range(size)]
        for language, words in (("en", WORDS), ("de", GERMAN)):
            text = "\n".join(" ".join(words[i] for i in row) for row in rows) + "\n"
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), {"train": 600, "val": 40, "test": 40})


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Translation:
    found = load(f"{folder}:en-de:vocabulary=400,length=32")
    assert isinstance(found, Translation)
    return found


def trial(expression: str = "relu(x)", stage: str = "search", seed: int = 0) -> Trial:
    return Trial(0, stage, expression, "", seed)


# -- the network


def test_the_base_model_has_the_published_parameters() -> None:
    """By hand: an encoder layer has 4 (512^2 + 512) + (2 * 512 * 2048 + 2048 + 512) + 2 * 1024, a
    decoder layer 4 (512^2 + 512) + 1024 more."""
    with torch.device("meta"):
        model = Transformer(relu, vocabulary=37_000, length=100)
    attention, norm = 4 * (512**2 + 512), 2 * 512
    forward = 2 * 512 * 2048 + 2048 + 512
    layers = 6 * (attention + forward + 2 * norm) + 6 * (2 * attention + forward + 3 * norm)
    assert layers == 44_138_496
    assert sum(p.numel() for p in model.parameters()) == layers + 37_000 * 512


def test_every_feed_forward_layer_has_the_candidate_on_its_last_dimension() -> None:
    made: list[tuple[int, int]] = []

    def make(width: int, *, channel_dim: int = 1, gated: int = 0) -> nn.Module:
        made.append((width, channel_dim))
        return nn.ReLU()

    child_from("transformer:width=32,layers=3,heads=2,feedforward=48")(
        make, vocabulary=50, length=10
    )
    assert made == [(48, -1)] * 6


def test_positions_are_vaswanis() -> None:
    table = positions(50, 16)
    for place, column in ((0, 0), (7, 4), (49, 15)):
        rate = 10_000 ** (-(column // 2 * 2) / 16)
        expected = np.sin(place * rate) if column % 2 == 0 else np.cos(place * rate)
        assert table[place, column].item() == pytest.approx(expected, abs=1e-5)


def test_no_token_sees_those_after_it_nor_padding() -> None:
    torch.manual_seed(0)
    model = Transformer(relu, 50, 20, width=16, layers=2, heads=2, feedforward=32).eval()
    source = torch.randint(3, 50, (2, 7))
    target = torch.randint(3, 50, (2, 6))
    before = model(source, target)
    target[:, 4:] = torch.randint(3, 50, (2, 2))
    assert torch.allclose(model(source, target)[:, :4], before[:, :4], atol=1e-6)
    longer = torch.cat((source, torch.full((2, 3), PADDING)), 1)
    assert torch.allclose(model(longer, target)[:, :4], before[:, :4], atol=1e-6)


def test_translating_with_kept_keys_is_taking_the_likeliest_token_each_time() -> None:
    torch.manual_seed(1)
    model = Transformer(relu, 30, 20, width=16, layers=2, heads=2, feedforward=32).eval()
    source = torch.randint(3, 30, (3, 5))
    tokens, finite = model.translate(source, 8)
    assert bool(finite)
    target = torch.full((3, 1), START)
    for _ in range(tokens.shape[1]):
        target = torch.cat((target, model(source, target)[:, -1:].argmax(-1)), 1)
    for found, expected in zip(tokens.tolist(), target[:, 1:].tolist(), strict=True):
        end = expected.index(END) + 1 if END in expected else len(expected)
        assert found[:end] == expected[:end]
        assert not any(found[end:])


# -- the data


def test_pairs_are_read_with_their_translations(pairs: Translation) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(pairs.tokenizer)
    task = TranslationTask(pairs, torch.device("cpu"))
    to_german = dict(zip(WORDS, GERMAN, strict=True))
    assert len(task.source["train"]) == 600
    for split in ("train", "val", "test"):
        for source, target in zip(task.source[split], task.target[split], strict=True):
            assert source[-1] == target[-1] == END
            english = tokenizer.decode(source[:-1].tolist()).split()
            german = tokenizer.decode(target[:-1].tolist()).split()
            assert [to_german[word] for word in english] == german


def test_an_epoch_has_every_pair_once_and_is_the_same_for_the_same_seed(
    pairs: Translation,
) -> None:
    task = TranslationTask(pairs, torch.device("cpu"))
    recipe = Recipe(batch_size=30)
    streams = [task.batches(recipe, seed=3) for _ in range(2)]
    seen: list[tuple[int, ...]] = []
    for _ in range(20):
        (source, target), (again, _) = next(streams[0]), next(streams[1])
        assert torch.equal(source, again)
        assert len(source) == len(target) == 30
        seen += [tuple(t for t in row.tolist() if t != PADDING) for row in source]
    assert sorted(seen) == sorted(tuple(s.tolist()) for s in task.source["train"])


def test_compressed_files_and_several_tests_are_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        for name in (file.name, file.name.replace("test", "test_2")):
            with gzip.open(tmp_path / f"{name}.gz", "wb") as packed:
                packed.write(file.read_bytes())
    plain, packed = load(f"{folder}:en-de"), load(f"{tmp_path}:en-de")
    assert isinstance(plain, Translation)
    assert isinstance(packed, Translation)
    assert plain.splits["val"].text == packed.splits["val"].text
    assert len(packed.splits["test"]) == 2 * len(plain.splits["test"])


def test_the_same_files_give_the_same_digest_and_others_another(folder: Path) -> None:
    one, two, turned = (load(f"{folder}:{pair}") for pair in ("en-de", "en-de", "de-en"))
    assert one.digest == two.digest != turned.digest


def _shorter(folder: Path) -> None:
    (folder / "val.de").write_text("rot\n")


def _no_text(folder: Path) -> None:
    (folder / "train.en").write_bytes(b"\xff\xfe\x00" * 50)


@pytest.mark.parametrize(
    ("pair", "damage", "sentence"),
    [
        ("en-fr", lambda folder: None, r"no .*/train\.fr"),
        ("ende", lambda folder: None, "SOURCE-TARGET"),
        ("en-de:vocabulary=20", lambda folder: None, "300 tokens or more"),
        ("en-de:words=20", lambda folder: None, "unknown option"),
        ("en-de", _shorter, "40 lines of en but 1 of de"),
        ("en-de", _no_text, "cannot be read"),
    ],
)
def test_sentences_that_cannot_be_used_get_a_sentence(
    tmp_path: Path, pair: str, damage: Callable[[Path], None], sentence: str
) -> None:
    write_pairs(tmp_path, {"train": 60, "val": 40, "test": 40})
    damage(tmp_path)
    with pytest.raises((DataError, ValueError), match=sentence):
        load(f"{tmp_path}:{pair}")


@pytest.mark.parametrize("child", ["resnet8", "mlp"])
def test_a_child_for_images_refuses_sentences(pairs: Translation, child: str) -> None:
    with pytest.raises(ValueError, match="asks for input_shape and classes, but"):
        Evaluator(pairs, child_from(child), Recipe()).build("relu(x)")


# -- training


def test_a_transformer_learns_to_translate(pairs: Translation) -> None:
    recipe = Recipe(
        steps=250, batch_size=64, lr=4e-3, weight_decay=0.0, schedule="inverse-sqrt",
        optimiser="adam-0.98",
    )  # fmt: skip
    evaluate = Evaluator(pairs, child_from(SMALL), recipe, test=True, inspect=True)
    outcome = evaluate(trial("mul(x, sigmoid(scale(x)))", stage="reevaluate"))
    assert outcome.status == "ok", outcome.reason
    assert outcome.test_score is not None
    assert outcome.test_score > 0.1  # 0.24; an untrained one has 0.001
    assert outcome.curve[-1][1] < 1.0 < outcome.curve[0][1]
    assert len(outcome.details["betas"][0]) == 2 * 64


@pytest.mark.skipif(compiler.compiler() is None, reason="needs a C compiler")
def test_generated_and_eager_activations_translate_alike(pairs: Translation) -> None:
    recipe = Recipe(steps=6, batch_size=16, lr=1e-3, optimiser="adam-0.98")
    expression = "mul(x, sigmoid(scale(x)))"
    losses = [
        Evaluator(pairs, child_from(SMALL), recipe, kernels=kernels)(trial(expression)).curve[-1][1]
        for kernels in ("eager", "generated")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_loss_is_smoothed_cross_entropy_of_the_words_without_the_padding(
    pairs: Translation,
) -> None:
    """By hand: 0.9 of the target's and 0.1 of the mean negative log-likelihood, a word."""
    task = TranslationTask(pairs, torch.device("cpu"))
    model = child_from(SMALL)(relu, **pairs.facts).eval()
    target = torch.tensor([[7, 8, 9, END], [7, END, PADDING, PADDING]])
    source = torch.tensor([[5, 6, END], [5, END, PADDING]])
    before = torch.tensor([[START, 7, 8, 9], [START, 7, END, PADDING]])
    minus = -model(source, before).log_softmax(-1)
    words = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    by_hand = [
        0.9 * minus[i, t, target[i, t]].item() + 0.1 * minus[i, t].mean().item() for i, t in words
    ]
    found = task.loss(model, (source, target), Recipe(label_smoothing=0.1))
    assert found.item() == pytest.approx(sum(by_hand) / len(words), rel=1e-5)


def test_bleu_is_sacrebleus_of_the_translations(pairs: Translation) -> None:
    """A model that says the reference has BLEU 100; one that says half of them has less."""

    class Parrot(nn.Module):
        def __init__(self, task: TranslationTask, every: int) -> None:
            super().__init__()
            pairs = list(zip(task.source["val"], task.target["val"], strict=True))
            self.known = {tuple(s.tolist()): t for s, t in pairs[::every]}

        def translate(self, source: torch.Tensor, longest: int) -> tuple[torch.Tensor, Any]:
            rows = [tuple(t for t in row.tolist() if t != PADDING) for row in source]
            said = [self.known.get(row, torch.tensor([END])) for row in rows]
            return nn.utils.rnn.pad_sequence(said, batch_first=True), torch.tensor(True)

    task = TranslationTask(pairs, torch.device("cpu"))
    assert task.score(Parrot(task, 1), Recipe(), "val") == 1.0  # sacrebleu's is a little more
    assert 0.01 < task.score(Parrot(task, 2), Recipe(), "val") < 0.9


def test_logits_that_are_not_finite_are_no_score(pairs: Translation) -> None:
    task = TranslationTask(pairs, torch.device("cpu"))
    model = child_from(SMALL)(relu, **pairs.facts)
    with torch.no_grad():
        next(iter(model.parameters()))[5] = float("nan")
    with pytest.raises(Diverged, match="not finite on the val split"):
        task.score(model, Recipe(), "val")


def test_sentences_and_their_evaluator_travel_to_workers(pairs: Translation) -> None:
    evaluate = Evaluator(pairs, child_from(SMALL), Recipe(steps=2, batch_size=8, lr=1e-3))
    there = pickle.loads(pickle.dumps(evaluate))
    assert there(trial()).curve == evaluate(trial()).curve
    assert there.protocol_hash == evaluate.protocol_hash


def test_the_base_model_takes_a_step(pairs: Translation) -> None:
    recipe = Recipe(**{**vars(RECIPES["transformer"]), "steps": 1, "batch_size": 4})
    evaluate = Evaluator(pairs, child_from("transformer"), recipe)
    model = evaluate.build("mul(x, sigmoid(scale(x)))")
    task = TranslationTask(pairs, torch.device("cpu"))
    loss = task.loss(model, next(task.batches(recipe, 0)), recipe)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert sum(isinstance(m, Activation) for m in model.modules()) == 12


def test_a_search_by_bleu_says_bleu_wherever_it_says_a_score(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    data = ["--dataset", f"{folder}:en-de:vocabulary=400,length=32"]
    size = ["--child", SMALL, "--steps", "2", "--batch-size", "8", "--executor", "inline"]
    chosen = ["--space", "tiny", "--strategy", "random", "--budget", "1"]
    assert cli.main(["search", str(run), *data, *size, *chosen]) == 0
    said = capsys.readouterr()
    assert "val BLEU" in said.out
    assert "accuracy" not in said.out
    assert re.search(r"best \d+\.\d\d BLEU ", said.err)  # the screen
    assert f"  actsearch report '{run}'\n  actsearch export '{run}'#1" in said.out  # can be pasted
    assert cli.main(["top", str(run), "--format", "markdown"]) == 0
    assert "val BLEU" in capsys.readouterr().out
    assert cli.main(["top", str(run), "--where", "val_BLEU>0.9"]) == 0
    assert "no function with val_BLEU>0.9" in capsys.readouterr().out
    again = ["reevaluate", str(run), "--seeds", "1", "--top", "1", "--executor", "inline"]
    assert cli.main(again) == 0
    assert re.search(r"best \d+\.\d\d BLEU ", capsys.readouterr().err)
