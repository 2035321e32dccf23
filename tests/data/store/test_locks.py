"""Locks on whole stores and on some shards, and what an owner that was killed leaves behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_locations import open_place

from combo_avs.data.store import locks
from combo_avs.data.store.location import UrlPath, location, names_in
from combo_avs.data.store.locks import lock_store
from combo_avs.errors import BadInput

OWNER = """
import sys, time
from pathlib import Path
from combo_avs.data.store.locks import lock_store
with lock_store(Path(sys.argv[1]), {1, 2}):
    print("locked", flush=True)
    time.sleep(100_000)
"""


@pytest.fixture
def other_process(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_named_and_its_death_frees_the_store(other_process, tmp_path: Path) -> None:
    who = f"process {other_process.pid} on {socket.gethostname()} is writing to 2 shards"
    for shards in (None, {2}):
        with pytest.raises(BadInput, match=who), lock_store(tmp_path, shards):
            pass
    (tmp_path / "features" / "c").mkdir(parents=True)
    left = tmp_path / "features" / "c" / ".3.99-ab.tmp"
    left.write_bytes(b"half")
    with lock_store(tmp_path, {0, 3}):
        assert left.exists(), "it may belong to the other run"
    os.kill(other_process.pid, signal.SIGKILL)
    other_process.wait()
    with lock_store(tmp_path):
        assert not left.exists()
    assert names_in(tmp_path) == ["_lock", "features"]


@pytest.fixture
def url(tmp_path: Path) -> UrlPath:
    return location(open_place("memory", tmp_path))


def announce(url: UrlPath, host: str, pid: int) -> UrlPath:
    path = url / f"_lock.{host}.{pid}.0"
    path.write_bytes(json.dumps({"host": host, "pid": pid, "shards": None}).encode())
    return path


class TestObjectStore:
    def test_an_owner_elsewhere_is_believed_until_its_heartbeat_stops(self, url: UrlPath, monkeypatch) -> None:
        path = announce(url, "elsewhere", 7)
        with pytest.raises(BadInput, match="process 7 on elsewhere"), lock_store(url):
            pass
        monkeypatch.setattr(locks, "EXPIRY", -1.0)
        with lock_store(url):
            assert not path.exists()
        assert names_in(url) == []

    def test_a_dead_process_of_this_host_locks_nothing(self, url: UrlPath) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        announce(url, socket.gethostname(), gone.pid)
        with lock_store(url):
            pass
        assert names_in(url) == []

    def test_the_lock_file_is_written_again_and_again(self, url: UrlPath, monkeypatch) -> None:
        monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
        with lock_store(url):
            (name,) = names_in(url)
            first = (url / name).modified()
            while (url / name).modified() == first:
                time.sleep(0.01)
            assert (url / name).modified() > first

    def test_what_is_no_lock_is_not_taken_for_one(self, url: UrlPath) -> None:
        (url / "_lock.x").write_bytes(b"?")
        with pytest.raises(BadInput, match="lock file is damaged"), lock_store(url):
            pass


def test_a_refused_writer_leaves_nothing(url: UrlPath, tmp_path: Path) -> None:
    for place in (url, tmp_path):
        with lock_store(place):
            before = names_in(place)
            with pytest.raises(BadInput), lock_store(place):
                pass
            assert names_in(place) == before


class TestLife:
    """An owner counts as dead only when it surely is: a living run must never lose its lock."""

    @pytest.mark.parametrize(
        ("error", "host", "dead"),
        [
            (None, "here", False),
            (ProcessLookupError(), "here", True),
            (ProcessLookupError(), "elsewhere", False),
            (PermissionError(), "here", False),  # alive, of another user
        ],
        ids=str,
    )
    def test_of_a_process(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None, host: str, dead: bool) -> None:
        def kill(pid: int, number: int) -> None:
            assert (pid, number) == (7, 0)
            if error is not None:
                raise error

        monkeypatch.setattr(os, "kill", kill)
        monkeypatch.setattr(socket, "gethostname", lambda: "here")
        assert locks.Owner(host, 7, None).is_dead_here() is dead

    @pytest.mark.parametrize(("age", "dead"), [(299, False), (301, True)])
    def test_by_its_heartbeat(self, url: UrlPath, monkeypatch: pytest.MonkeyPatch, age: float, dead: bool) -> None:
        """Five minutes by the clock of the server, in which a living owner writes four times."""
        other = announce(url, "elsewhere", 7)
        monkeypatch.setattr(UrlPath, "modified", lambda path: 1000.0 if path == other else 1000.0 + age)
        if dead:
            with lock_store(url):
                assert not other.exists()
        else:
            with pytest.raises(BadInput, match="process 7"), lock_store(url):
                pass
        assert locks.HEARTBEAT * 4 <= 299

    @pytest.mark.parametrize(
        ("ours", "theirs", "refused"),
        [(None, {1}, True), ({1}, None, True), ({1, 2}, {2, 3}, True), ({1, 2}, {3}, False), (None, None, True)],
    )
    def test_who_is_in_the_way(
        self, tmp_path: Path, ours: set[int] | None, theirs: set[int] | None, refused: bool
    ) -> None:
        me, other = (locks.Owner("here", 7, None if s is None else frozenset(s)) for s in (ours, theirs))
        assert locks.Owner.parse(other.to_json()) == other
        if refused:
            with pytest.raises(BadInput, match="process 7 on here is writing"):
                me.check_overlap(tmp_path, [other])
        else:
            me.check_overlap(tmp_path, [other])
