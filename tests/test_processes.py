"""A child answers, and whatever becomes of it costs one answer."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aladin.processes import Child, Children, Ended, Limits, NotStarted, TooSlow

ANSWERS = """
import os, resource, sys, time
from aladin.processes import own_stdout, serve
def answer(facts, content):
    if facts.get("do") == "die":
        os.abort()
    if facts.get("do") == "exit":
        sys.exit(3)
    if facts.get("do") == "sleep":
        time.sleep(60)
    if facts.get("do") == "print":
        print("noise", flush=True)
    if facts.get("do") == "hoard":
        try:
            return {"held": len(bytes(facts["bytes"]))}, b""
        except MemoryError:
            return {"held": None}, b""
    return {"pid": os.getpid(), "files": resource.getrlimit(resource.RLIMIT_FSIZE)[0]}, content
answers = own_stdout()
serve(answer, answers, int(sys.argv[1]) if len(sys.argv) > 1 else None)
"""
Start = Callable[..., Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def new(seconds: float | None = None, memory_mb: int | None = None, answers: int | None = None) -> Child:
        arguments = [str(memory_mb)] if memory_mb else []
        children.append(Child(ANSWERS, Limits(seconds, memory_mb, answers), arguments))
        return children[-1]

    yield new
    for child in children:
        child.end()


def pid(child: Child) -> int:
    number: int = child.ask({})[0]["pid"]
    return number


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_an_answer_follows_each_request_whatever_its_size(start: Start) -> None:
    child = start(seconds=30.0)
    for size in (0, 1, 70_000, 5_000_000):
        content = os.urandom(size)
        facts, returned = child.ask({"name": "\udc80"}, content)
        assert returned == content
    assert facts["pid"] == pid(child) == child.process.pid  # type: ignore[union-attr]


def test_what_a_library_prints_disturbs_no_answer(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    child = start()
    assert child.ask({"do": "print"}, b"x")[1] == b"x"
    assert capfd.readouterr() == ("", "noise\n")


@pytest.mark.parametrize(("do", "how"), [("die", "SIGABRT"), ("exit", "exit code 3")])
def test_a_child_that_dies_says_how_and_is_replaced(start: Start, do: str, how: str) -> None:
    child = start()
    before = pid(child)
    with pytest.raises(Ended, match=how):
        child.ask({"do": do})
    assert not child.is_used
    assert pid(child) != before


def test_a_child_that_died_between_two_requests_costs_the_second(start: Start) -> None:
    child = start()
    before = pid(child)
    child.process.kill()  # type: ignore[union-attr]
    child.process.wait()  # type: ignore[union-attr]
    with pytest.raises(Ended, match="SIGKILL"):
        child.ask({}, bytes(1_000_000))
    assert pid(child) != before


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_an_answer_or_a_reading_that_takes_too_long_costs_its_time_alone(start: Start, stopped: bool) -> None:
    child = start(seconds=1.0)
    before = pid(child)
    if stopped:  # so that not even the request is read
        os.kill(before, 19)
    started = time.monotonic()
    with pytest.raises(TooSlow):
        child.ask({"do": "sleep"}, bytes(5_000_000))
    assert 0.9 <= time.monotonic() - started < 5
    assert not Path(f"/proc/{before}").exists()
    assert pid(child) != before


def test_memory_beyond_the_limit_is_refused_and_no_file_is_written(start: Start) -> None:
    child = start(seconds=30.0, memory_mb=100)
    assert child.ask({"do": "hoard", "bytes": 300 << 20})[0]["held"] is None
    assert child.ask({"do": "hoard", "bytes": 1 << 20})[0]["held"] == 1 << 20
    assert child.ask({})[0]["files"] == 0


@pytest.mark.slow
def test_after_so_many_answers_a_fresh_child_takes_over(start: Start) -> None:
    child = start(answers=2)
    used, pids = [], []
    for _ in range(5):
        used.append(child.is_used)
        pids.append(pid(child))
    assert used == [False, True, False, True, False]
    assert (len(set(pids)), pids[0] == pids[1], pids[2] == pids[3]) == (3, True, True)


def test_what_cannot_start_says_why() -> None:
    with pytest.raises(NotStarted, match="exit code 1"):
        Child("import a_library_that_is_not_there", Limits(seconds=5.0, memory_mb=500)).ask({})


@pytest.mark.slow
def test_no_descriptor_and_no_process_is_left(start: Start) -> None:
    child = start(seconds=1.0)
    pid(child)
    child.end()
    before = open_descriptors()
    for do in ("", "die", "sleep"):
        try:
            child.ask({"do": do})
        except (Ended, TooSlow):
            assert child.process is None
    child.end()
    assert open_descriptors() == before


def test_a_killed_child_answers_no_more_and_no_other_takes_its_place() -> None:
    children = Children(lambda: Child(ANSWERS, Limits(seconds=30.0)), 2, "test")
    waiting = [children.threads.submit(lambda: children.own().ask({"do": "sleep"})) for _ in range(2)]
    deadline = time.monotonic() + 30
    while not (len(children.all) == 2 and all(child.process for child in children.all)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes = [child.process for child in children.all]
    children.kill()
    assert all(isinstance(future.exception(), Ended | NotStarted) for future in waiting)
    assert all(process is not None and process.returncode is not None for process in processes)
    with pytest.raises(Ended, match="stopped"):
        children.all[0].ask({})


def test_a_child_ends_with_its_parent() -> None:
    script = (
        "import os, sys; from aladin.processes import *\n"
        "child = Child(sys.argv[1], Limits()); print(child.ask({})[0]['pid'], flush=True); os.kill(os.getpid(), 9)"
    )
    number = int(subprocess.run([sys.executable, "-c", script, ANSWERS], capture_output=True, check=False).stdout)
    for _ in range(500):
        if not Path(f"/proc/{number}").exists() or "Z" in Path(f"/proc/{number}/stat").read_text().split()[2]:
            return
        time.sleep(0.01)
    pytest.fail("the child outlived its parent")
