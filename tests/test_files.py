"""Files are replaced as a whole or not at all, hashed as they are, and locked for one process."""

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from combo_avs.errors import BadInput
from combo_avs.files import file_sha256, is_temporary, lock, publish, replacing, sync, write_atomic


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for content in ("old", "new ä"):
        write_atomic(path, content)
    assert path.read_text(encoding="utf-8") == "new ä"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert is_temporary(temporary.name)
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_everything_is_flushed_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(f"os.{name}", lambda *_, name=name: steps.append(name))
    (tmp_path / "temporary").mkdir()
    publish(tmp_path / "temporary", tmp_path / "final")
    assert steps == ["fsync", "replace", "fsync"]


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with pytest.raises(BadInput, match=r"cannot read .*b: No such file"):
        file_sha256(tmp_path / "b")


def test_a_lock_is_held_by_one_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "_lock"
    with path.open("a") as first, path.open("a") as second:
        lock(first, path, wait=False)
        with pytest.raises(BlockingIOError):
            lock(second, path, wait=False)
        first.close()
        lock(second, path, wait=True)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "_lock").open("a") as file, pytest.raises(BadInput, match=r"no file locks.*-o flock"):
        lock(file, tmp_path, wait=True)


def test_a_write_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        steps.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def rename(old: Path, new: Path) -> None:
        assert old.read_bytes() == b"whole"
        steps.append(("replace", str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_atomic(tmp_path / "a", b"whole")
    assert [step for step, _ in steps] == ["fsync", "replace", "fsync"]
    assert is_temporary(Path(steps[0][1]).name)
    assert [path for _, path in steps[1:]] == [str(tmp_path / "a"), str(tmp_path)]


def test_a_new_folder_is_on_the_disk_before_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could take a folder, and all that was flushed into it."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    write_atomic(tmp_path / "a" / "b" / "c", b"whole")
    assert flushed[:2] == [str(tmp_path), str(tmp_path / "a")]
    flushed.clear()
    write_atomic(tmp_path / "a" / "b" / "c", b"again")
    assert len(flushed) == 2, "the file and its folder"


def test_only_names_of_writers_at_work_are_temporary() -> None:
    assert is_temporary(".a.7-ab.tmp")
    assert not any(map(is_temporary, ["a.tmp", ".a", ".a.tmp.json"]))


def test_flushing_returns_the_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert sync(tmp_path / "a") == 5


@pytest.mark.parametrize(("wait", "flags"), [(True, fcntl.LOCK_EX), (False, fcntl.LOCK_EX | fcntl.LOCK_NB)])
def test_a_lock_is_for_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool, flags: int) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "flock", lambda _, flags: asked.append(flags))
    with (tmp_path / "_lock").open("a") as file:
        lock(file, tmp_path, wait=wait)
    assert asked == [flags]
