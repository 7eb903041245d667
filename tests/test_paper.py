"""The paper's tables: cells and sums read off the page, counts by hand, and a run beside them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from actsearch import cli
from actsearch.results.statistics import Wins, sign_test
from actsearch.run import Run
from actsearch.search_space.analysis.equivalence import canonical
from actsearch.search_space.parser import parse
from actsearch.studies.beside_paper import measured, recount_lines, side_by_side
from actsearch.studies.paper import (
    MODELS,
    NUMBERS,
    TABLES,
    formula_of,
    long_rows,
    model_scores,
    printed_counts,
    recounted,
)

from .test_compare import add, seeds

BASELINES_OF_TABLE_3 = ("relu", "lrelu", "prelu", "softplus", "elu", "selu", "gelu")


@pytest.mark.parametrize(
    ("table", "function", "column", "printed"),
    [
        (1, "swish", "DenseNet-100-12", 94.9),
        (1, "x * asinh(x)**2", "ResNet-164", 85.1),
        (2, "min(x, sin(x))", "DenseNet-100-12", 74.3),
        (4, "swish", "DenseNet-100-12", 94.8),  # printed otherwise than in Table 1
        (4, "elu", "WRN-28-10", 94.1),
        (5, "softplus", "ResNet-164", 76.0),
        (6, "swish", "top-1, run 3", 75.2),
        (6, "gelu", "top-1, run 2", None),
        (7, "elu", "top-5, run 1", 92.6),
        (8, "relu", "top-1", 72.0),
        (9, "swish", "top-5", 94.0),
        (10, "softplus", "top-1", 79.6),
        (11, "swish-1", "newstest2016", 34.0),
        (11, "softplus", "newstest2014", 23.6),
    ],
)
def test_cells_are_as_printed(
    table: int, function: str, column: str, printed: float | None
) -> None:
    assert TABLES[table].scores[function][column] == printed


# The numbers that a table has, and the sum of its first column, added up from the page.
SUMS = {
    1: (27, 835.1), 2: (27, 641.6), 4: (27, 847.3), 5: (27, 672.0), 6: (50, 667.7),
    7: (54, 713.6), 8: (18, 661.3), 9: (18, 702.9), 10: (18, 712.8), 11: (36, 228.9),
}  # fmt: skip


@pytest.mark.parametrize("number", TABLES)
def test_tables_are_whole(number: int) -> None:
    columns = [list(row.values()) for row in TABLES[number].scores.values()]
    values = [v for row in columns for v in row if v is not None]
    assert (len(values), round(sum(row[0] or 0 for row in columns), 1)) == SUMS[number]
    assert all(20 < v < 99 for v in values)


def test_every_function_of_the_tables_is_one_of_our_grammar() -> None:
    names = {name for table in TABLES.values() for name in table.scores}
    assert len(names) == 16  # nine baselines, and seven discovered beside ReLU and Swish
    assert len({str(canonical(parse(formula_of(name)))) for name in names}) == 16


def test_the_papers_own_counts_leave_softplus_short_of_significance() -> None:
    counts = printed_counts()
    assert tuple(counts) == BASELINES_OF_TABLE_3
    assert all(c.wins + c.ties + c.losses == 9 for c in counts.values())
    p = {name: sign_test(c) for name, c in counts.items()}
    assert p["softplus"] == 0.0625
    assert [name for name, value in p.items() if value >= 0.05] == ["softplus"]


@pytest.mark.parametrize(
    ("function", "counts"),
    [
        ("swish", [(8, 1, 0), (6, 1, 2), (7, 2, 0), (5, 2, 2), (8, 0, 1), (9, 0, 0), (8, 1, 0)]),
        ("swish-1", [(9, 0, 0), (8, 1, 0), (6, 3, 0), (6, 1, 2), (8, 0, 1), (9, 0, 0), (8, 1, 0)]),
    ],
)
def test_the_printed_tables_do_not_give_table_3(
    function: str, counts: list[tuple[int, int, int]]
) -> None:
    found = recounted(function)
    expected = dict(zip(BASELINES_OF_TABLE_3, (Wins(*c) for c in counts), strict=True))
    assert found == expected
    assert found != printed_counts()


def test_a_models_score_is_the_median_of_its_data_sets_runs_or_test_sets() -> None:
    swish = model_scores("swish")
    assert list(swish) == list(MODELS)
    assert swish["ResNet-164"] == pytest.approx((94.5 + 75.1) / 2)
    assert swish["Mobile NASNet-A"] == 74.9
    assert swish["Transformer"] == pytest.approx((27.6 + 30.0) / 2)
    assert model_scores("gelu")["Mobile NASNet-A"] == 74.6  # of the one run that is printed


def test_long_rows_hold_every_number_once() -> None:
    rows = list(long_rows())
    assert len(rows) == sum(n for n, _ in SUMS.values())
    assert len({(r["table"], r["function"], r["model"], r["measure"]) for r in rows}) == len(rows)


# -- the command


@pytest.mark.parametrize("style", ["table", "markdown"])
def test_the_command_prints_every_table_and_what_a_second_count_shows(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["paper", "-f", style]) == 0
    out = capsys.readouterr().out
    for number in NUMBERS:
        assert out.count(f"Table {number}: ") == 1
    assert "93.8 " in out  # with the one decimal that is printed
    assert all(line in out for line in recount_lines())
    assert "not significantly better than softplus (p = 0.0625)" in out


def test_one_table_is_printed_alone_and_read_by_machines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["paper", "--table", "8"]) == 0
    assert capsys.readouterr().out.startswith("Table 8: ImageNet, MobileNet")
    assert cli.main(["paper", "--table", "8", "-f", "csv"]) == 0
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    top1 = {r["function"]: float(r["value"]) for r in read if r["measure"] == "accuracy top-1"}
    assert top1["prelu"] == 74.2
    assert len(read) == 18
    assert cli.main(["paper", "--table", "3", "-f", "json"]) == 0
    [softplus] = [
        row
        for row in json.loads(capsys.readouterr().out)
        if row["counts"] == "swish, Table 3" and row["baseline"] == "softplus"
    ]
    assert softplus["sign test p"] == 0.0625
    assert softplus["Holm p"] == pytest.approx(9 / 128)  # twice LReLU's 9/256, the next smaller
    assert cli.main(["paper", "-f", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 302


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = tmp_path / "runs/a"
    add(path, "relu", seeds(0.91, 0.92, 0.90), dataset="cifar10")
    add(path, "sigmoid(beta * x) * x", seeds(0.93, 0.94, 0.95), dataset="cifar10")
    add(path, "x * asinh(x)**2", seeds(0.5, "loss nan at step 3", 0.5), dataset="cifar10")
    add(path, "relu", seeds(0.99), dataset="digits")
    return Run(path)


def test_measured_functions_stand_beside_those_of_the_paper_whatever_their_spelling(
    run: Run,
) -> None:
    [model] = [m for m in measured(run) if m.dataset == "cifar10"]
    rows = {row["function"]: row for row in side_by_side(TABLES[1], [model])}
    name = "resnet8 on cifar10"
    assert str(rows["swish"]["ResNet-164"]) == "94.5"
    assert (rows["swish"][name], rows["swish"]["n"]) == (pytest.approx(94.0), 3)
    assert (rows["relu"][name], rows["relu"]["n"]) == (pytest.approx(91.0), 3)
    assert (rows["x * asinh(x)**2"][name], rows["x * asinh(x)**2"]["n"]) == (None, 2)
    assert (rows["cos(x) - x"][name], rows["cos(x) - x"]["n"]) == (None, None)


def test_a_run_stands_beside_the_tables_of_its_data_set(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["paper", str(run.path)]) == 0
    out = capsys.readouterr().out
    titles = [line.split(":")[0] for line in out.splitlines() if line.startswith("Table ")]
    assert titles == ["Table 1", "Table 4"]
    assert "94.00" in out
    assert "on digits" not in out
    assert cli.main(["paper", str(run.path), "-f", "json"]) == 0
    rows = [r for r in json.loads(capsys.readouterr().out) if r["source"] == "run"]
    assert {(r["table"], r["function"], r["n"]) for r in rows} == {
        (1, "relu", 3), (1, "swish", 3), (1, "x * asinh(x)**2", 2), (4, "relu", 3), (4, "swish", 3),
    }  # fmt: skip


def test_a_run_on_other_data_stands_beside_all_tables_of_its_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path / "a", "gelu", seeds(0.876, 0.876), dataset="digits")
    assert cli.main(["paper", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "BLEU" not in out
    accuracies = [t for t in TABLES.values() if t.measure != "BLEU"]
    assert out.count("resnet8 on digits") == len(accuracies) == len(TABLES) - 1
    assert out.count("87.60  2") == len(accuracies) - 2  # GELU is in all but Tables 1 and 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--table", "12"], 2, "the paper has no table 12; it has 1 to 11"),
        (["runs/none"], 5, "no run at runs/none"),
        (["runs/empty"], 5, "runs/empty has no finished re-evaluation"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    add(Path("runs/empty"), "relu", {})
    assert cli.main(["paper", *arguments]) == code
    assert sentence in capsys.readouterr().err
