"""One process at a time: the second is told who is first, and the death of the first makes way."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from expunge._lock import held, is_lock
from expunge.errors import OutputError, StateError

HOLD = "import sys; from expunge._lock import held\nwith held(sys.argv[1], inside=bool(sys.argv[2:])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def other():
    """Another process that holds a path until its input ends."""
    started = []

    def start(path, *inside):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), *inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("inside", [(), ("inside",)])
def test_a_second_process_is_refused_and_told_who_is_first(tmp_path, other, inside):
    path = tmp_path / "thing"
    path.mkdir()
    first = other(path, *inside)
    told = rf"thing is in use by process {first.pid} on \S+ since 2\d\d\d-"
    with pytest.raises(StateError, match=told), held(path, inside=bool(inside), error=StateError):
        pass
    first.communicate("")
    with held(path, inside=bool(inside)):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["thing"]  # no lock's file is left


@pytest.mark.parametrize("inside", [(), ("inside",)])
def test_the_death_of_the_holder_releases_the_lock(tmp_path, other, inside):
    path = tmp_path / "thing"
    path.mkdir()
    first = other(path, *inside)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with held(path, inside=bool(inside)):
        signed = json.loads(next(p for p in tmp_path.rglob("*") if is_lock(p.name)).read_text())
        assert signed["pid"] == os.getpid()


def test_one_folder_under_two_names_has_one_lock(tmp_path, other):
    (tmp_path / "thing").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "thing")
    other(tmp_path / "alias")
    with pytest.raises(OutputError, match="in use by process"), held(tmp_path / "thing"):
        pass


def test_threads_of_one_process_exclude_each_other(tmp_path):
    seen = []

    def second():
        try:
            with held(tmp_path / "thing"):
                seen.append("both")
        except OutputError as error:
            seen.append(str(error))

    with held(tmp_path / "thing"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"in use by process {os.getpid()}" in seen[0]


def test_the_lock_is_released_where_the_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path / "thing"):
        _ = 1 / 0
    with held(tmp_path / "thing"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"), held(tmp_path / "absent" / "thing"):
        pass
    assert not (tmp_path / "absent").exists()


RACE = """
import sys, time
from pathlib import Path
from expunge._lock import held
from expunge.errors import OutputError
counter, done = Path(sys.argv[1]), 0
while done < 40:
    try:
        with held(counter):
            now = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(now + 1))
            done += 1
    except OutputError:
        time.sleep(0.0002)
"""


def test_no_two_processes_ever_hold_it_at_once(tmp_path):
    """The file of the lock comes and goes; read, wait and write lose nothing under it."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    racers = [subprocess.Popen([sys.executable, "-c", RACE, str(counter)]) for _ in range(3)]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0, 0]
    assert counter.read_text() == "120"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_a_lock_is_known_by_its_name():
    assert is_lock(Path(".run.state.lock").name)
    assert not is_lock("run.lock")
