"""A run that is watched: what its driver says of itself, and the page of `actsearch watch`."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actsearch
from actsearch import cli
from actsearch.errors import EnvironmentProblem
from actsearch.reading.watching import Watched, server
from actsearch.run import Run
from actsearch.searching import status

from .conftest import wait_until
from .test_report import browser  # noqa: F401

STEPS = 9
FEW = "units=1;unary=identity,tanh,relu,abs;binary=add,mul,max"


class Held:
    """What `train` stands still for: its fourth training waits until it may go on."""

    def __init__(self) -> None:
        self.trained = 0
        self.waits, self.go_on = threading.Event(), threading.Event()


NOW: list[Held] = []  # of the test that runs


def train(make_activation: Any, seed: int, steps: int, report: Any) -> dict[str, float]:
    held = NOW[-1]
    make_activation(1)
    held.trained += steps == STEPS  # and not a trial of the objective itself
    for step in range(1, STEPS + 1):
        report(step, 1.0)
    if held.trained == 4:
        held.waits.set()
        held.go_on.wait()
    return {"score": held.trained / 100}


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Run, Held]]:
    """A search that stands still in its fourth training, with three done."""
    monkeypatch.setattr(status, "SECONDS", 0.2)
    NOW.append(held := Held())
    searching = threading.Thread(
        target=actsearch.search,
        args=(tmp_path / "a <b>run",),
        kwargs={"objective": train, "metric": actsearch.Metric("score"), "space": FEW,
                "executor": "inline", "quiet": True, "budget": 6, "steps": STEPS},
    )  # fmt: skip
    searching.start()
    try:
        assert held.waits.wait(60)
        yield Run.open(tmp_path / "a <b>run"), held
    finally:
        held.go_on.set()
        searching.join()


@pytest.fixture
def address(held: tuple[Run, Held]) -> Iterator[str]:
    serving, address = server(held[0])
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield address
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are made as soon as there is something new."""
    monkeypatch.setattr("actsearch.reading.watching.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("actsearch.reading.watching.SHARE", 1e9)


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_a_driver_says_what_it_does_and_takes_it_back_at_its_end(held: tuple[Run, Held]) -> None:
    run, stopped = held
    wait_until(lambda: (run.status() or {}).get("children"), "the driver's word")
    said = run.status()
    assert said is not None
    [child] = said["children"]
    assert child["step"] == STEPS
    assert child["worker"] == "this process"
    assert child["formula"] not in {entry.formula for entry in run.leaderboard()}
    assert said["running"] == 1
    assert said["total"] == 6
    assert sum(said["counts"].values()) - said["counts"]["rejected"] == 3
    stopped.go_on.set()
    wait_until(lambda: run.driver() is None, "the search's end")
    assert run.status() is None
    assert not run.status_file.exists()


def test_what_a_killed_driver_has_left_says_nothing(held: tuple[Run, Held], tmp_path: Path) -> None:
    run, stopped = held
    wait_until(run.status, "the driver's word")
    left = run.status_file.read_bytes()
    stopped.go_on.set()
    wait_until(lambda: run.driver() is None, "the search's end")
    run.status_file.write_bytes(left)
    assert run.status() is None
    run.status_file.write_bytes(b"half a wo")
    with run.locked():
        assert run.status() is None


def test_a_search_goes_on_where_its_status_cannot_be_written(tmp_path: Path) -> None:
    NOW.append(Held())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").mkdir()
    run = actsearch.search(tmp_path / "a", objective=train, metric=actsearch.Metric("score"),
                           space=FEW, executor="inline", quiet=True, budget=2)  # fmt: skip
    assert len(run.leaderboard()) >= 2


def test_only_the_address_with_its_token_is_answered(address: str) -> None:
    root = address.rsplit("/", 2)[0]
    assert get(address)[0] == get(f"{address}now.json")[0] == get(f"{address}report")[0] == 200
    for other in (
        root, f"{root}/", address[:-1], f"{root}/guess/", f"{root}/guess/now.json",
        f"{address}run.sqlite", f"{address}../config.json", f"{address}report?x=1",
    ):  # fmt: skip
        assert get(other)[0] == 404
    assert get(address, Host="evil.example")[0] == 404
    assert (
        get(address, Host=root.removeprefix("http://").replace("127.0.0.1", "localhost"))[0] == 200
    )
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(address, data=b"x=1")
    said = json.loads(get(f"{address}now.json")[1])
    assert set(said) == {"time", "there", "driver", "status", "steps", "report"}


def test_a_run_that_is_moved_while_it_is_watched_is_said(tmp_path: Path) -> None:
    for name in "az":
        (tmp_path / name).mkdir()
        Run(tmp_path / name).store().close()
    archive = Run(tmp_path / "z").archive()
    for path in (tmp_path / "a", archive):
        watched = Watched(Run.open(path))
        assert watched.now()["there"]
        path.rename(tmp_path / "moved")
        assert not watched.now()["there"]
        assert watched.now()["driver"] is None
        (tmp_path / "moved").rename(path)


def test_a_browser_that_leaves_and_one_that_says_nothing_cost_no_line_and_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actsearch.reading.watching._Handler.timeout", 0.2)
    (tmp_path / "a").mkdir()
    Run(tmp_path / "a").store().close()
    serving, address = server(Run.open(tmp_path / "a"))
    others = set(threading.enumerate())
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    quiet = [
        socket.create_connection(("127.0.0.1", serving.server_port), timeout=60) for _ in range(20)
    ]
    for one in quiet[:10]:
        one.send(b"GET / HT")
    for _ in range(5):
        gone = socket.create_connection(("127.0.0.1", serving.server_port))
        path = address.split("/", 3)[3]
        gone.send(f"GET /{path} HTTP/1.0\r\nHost: 127.0.0.1:{serving.server_port}\r\n\r\n".encode())
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()  # with a reset, as a browser whose tab is closed
    for one in quiet:
        with one:
            while one.recv(1024):  # until the server has let go
                pass
    wait_until(lambda: set(threading.enumerate()) - others == {thread}, "the end of their threads")
    serving.shutdown()
    thread.join()
    serving.server_close()
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_said(address: str, held: tuple[Run, Held]) -> None:
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(EnvironmentProblem, match=rf"port {port} cannot be used .*--port 0 takes"):
        server(held[0], port)
    assert cli.main(["watch", str(held[0].path), "--port", str(port)]) == 4
    assert cli.main(["watch", str(held[0].path.parent / "nothing")]) == 5


def test_the_page_follows_a_search(
    address: str,
    held: tuple[Run, Held],
    browser: Any,  # noqa: F811
    at_once: None,
) -> None:
    _, stopped = held
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#children tr")
    assert "a <b>run" in page.inner_text("h1")
    assert "this process" in page.inner_text("#children")
    assert f"step {STEPS} of {STEPS}" in page.inner_text("#children")
    assert "1 in training" in page.inner_text("#running")
    report = page.frame_locator("#report")
    report.locator("#functions").wait_for()
    before = report.locator("#functions tbody tr").count()
    stopped.go_on.set()
    page.get_by_text("nothing runs here now").wait_for()
    begun = time.monotonic()
    while report.locator("#functions tbody tr").count() == before:
        assert time.monotonic() - begun < 60
        time.sleep(0.1)
    assert not page.is_visible("#now")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1280
    assert said == []
    page.close()


@pytest.mark.thorough
def test_what_a_reader_has_typed_is_not_taken_away(
    address: str,
    held: tuple[Run, Held],
    browser: Any,  # noqa: F811
    at_once: None,
) -> None:
    page = browser.new_page()
    page.goto(address)
    report = page.frame_locator("#report")
    report.locator("#filter").fill("tanh")
    held[1].go_on.set()
    page.wait_for_selector("#new:visible")
    assert report.locator("#filter").input_value() == "tanh"
    page.click("#new")
    page.wait_for_selector("#new", state="hidden")
    report.locator("#functions").wait_for()
    assert report.locator("#filter").input_value() == ""
    page.close()
