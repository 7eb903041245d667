"""examples/search.ipynb runs from start to end, and its stored outputs name no machine."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from .conftest import LIMIT

NOTEBOOK = Path(__file__).parent.parent / "examples/search.ipynb"

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install nbclient")


def shown(notebook: Any, ends_in: str) -> str:
    """What the cell whose last line is `ends_in` shows, as text."""
    [cell] = [c for c in notebook.cells if c.source.splitlines()[-1] == ends_in]
    return cell.outputs[-1]["data"]["text/plain"]


def check(notebook: Any) -> None:
    """Its outputs are those of a search that found something."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert {o.output_type for cell in code for o in cell.outputs} <= {
        "execute_result",
        "display_data",
        "stream",
    }
    assert not any(o.get("name") == "stderr" for cell in code for o in cell.outputs)
    assert shown(notebook, "run") == "Run('runs/notebook')"
    [again] = [cell for cell in code if "reevaluate(" in cell.source]
    rows = again.outputs[0]["data"]["text/plain"].splitlines()
    assert len(rows) == 5  # ReLU, Swish and the best two under a line of names
    relu = next(row for row in rows if "relu(x)  " in row)
    assert float(re.findall(r"0\.\d+", relu)[0]) > 0.5
    assert shown(notebook, "replaced") == "1"
    beta = re.fullmatch(r"'x \* sigmoid\((\S+) \* x\)'", shown(notebook, "learnt"))
    assert beta is not None
    assert float(beta[1]) == pytest.approx(3.0, abs=0.1)
    [exported] = [cell for cell in code if "export(" in cell.source]
    module = exported.outputs[0]["text"]
    assert "class " in module
    compile(module, "exported", "exec")


@pytest.mark.slow
def test_the_notebook_runs_from_start_to_end(tmp_path: Path) -> None:
    nbclient = pytest.importorskip(
        "nbclient", reason="nbclient is not installed: pip install nbclient ipykernel"
    )
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=LIMIT, kernel_name="python3", resources=where
    ).execute()
    check(notebook)
    assert (tmp_path / "runs/notebook/run.sqlite").is_file()


def test_the_stored_outputs_are_whole_and_name_no_machine() -> None:
    check(nbformat.read(NOTEBOOK, as_version=4))
    text = NOTEBOOK.read_text()
    assert re.search(r"/(home|root|tmp|Users)/", text) is None
    assert socket.gethostname() not in text
    assert " at 0x" not in text
