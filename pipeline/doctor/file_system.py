"""Test whether a file system or object store is fit for caches: write, rename, sync, lock and map files there."""

import fcntl
import mmap
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...data.store.location import Location, UrlPath, names_in
from ...files import sync
from .findings import Finding
from .machine import LITTLE_DISK, free_disk

CONTENT = 1 << 16  # bytes of the files written
RENAMES = 50
_LOCK_ELSEWHERE = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


class Unfit(Exception):
    """An operation reported success, but did not do what it must."""


def file_system_findings(path: Location, facts: dict[str, Any], *, holds_data: bool) -> Iterator[Finding]:
    """Test the file system or object store at `path`, and add to `facts` how long a synced write takes.

    holds_data: whether it is a cache root already, which is of use even if read-only.
    """
    readonly = "D203" if holds_data else "D202"
    try:
        if isinstance(path, UrlPath):
            facts["write_ms"] = _try_objects(path)
            return
        folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=path))
    except (Unfit, OSError) as error:
        yield Finding(readonly, str(path), str(error))
        return
    try:
        tests: dict[str, Callable[[Path], None]] = {
            "D202": _try_content,
            "D204": _try_rename,
            "D205": lambda folder: facts.update(write_ms=_try_sync(folder)),
            "D206": _try_lock,
            "D207": _try_map,
        }
        for code, test in tests.items():
            try:
                test(folder)
            except (Unfit, OSError, ValueError) as error:
                yield Finding(code, str(path), str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts["free_gb"] = free_disk(path) / 1e9
    if facts["free_gb"] < LITTLE_DISK / 1e9:
        yield Finding("D107", str(path), f"{facts['free_gb']:.1f} GB")


def _try_objects(path: UrlPath) -> float:
    """Write, replace, list, read and remove one object. Returns the milliseconds of the write."""
    folder = path / f".doctor-{secrets.token_hex(4)}"
    file = folder / "object"
    try:
        for content in (b"old" * CONTENT, b"new" * CONTENT):
            started = time.perf_counter()
            file.write_bytes(content)
            elapsed = time.perf_counter() - started
            if file.read_bytes() != content:
                raise Unfit("an object does not read back as last written")
        if names_in(folder) != ["object"]:
            raise Unfit("an object that was written is not listed")
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
    return 1000 * elapsed


def _try_content(folder: Path) -> None:
    content = os.urandom(CONTENT)
    (folder / "content").write_bytes(content)
    if (folder / "content").read_bytes() != content:
        raise Unfit("a file does not read back as it was written")


def _try_rename(folder: Path) -> None:
    """While a file is replaced again and again, a reader must always find a complete one."""
    target, seen, ended = folder / "target", [], threading.Event()
    whole = [bytes([k]) * CONTENT for k in range(2)]
    target.write_bytes(whole[0])

    def read() -> None:
        while not ended.is_set():
            try:
                seen.append(target.read_bytes() in whole)
            except OSError:
                seen.append(False)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for k in range(RENAMES):
            (folder / "new").write_bytes(whole[k % 2])
            os.replace(folder / "new", target)
    finally:
        ended.set()
        reader.join()
    if not all(seen):
        raise Unfit(f"{seen.count(False)} of {len(seen)} readers found no complete file")
    if target.read_bytes() != whole[(RENAMES - 1) % 2]:
        raise Unfit("the old file is still there after the rename")


def _try_sync(folder: Path) -> float:
    """Milliseconds until a small file is on the disk, safe from a power cut."""
    started = time.perf_counter()
    (folder / "synced").write_bytes(b"x")
    sync(folder / "synced")
    sync(folder)
    return 1000 * (time.perf_counter() - started)


def _try_lock(folder: Path) -> None:
    """Another process must be kept out while the lock is held, and let in afterwards."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _can_lock_elsewhere(folder / "lock"):
            raise Unfit("two processes hold the same lock at once")
    if not _can_lock_elsewhere(folder / "lock"):
        raise Unfit("a lock remains after its holder released it")


def _can_lock_elsewhere(file: Path) -> bool:
    command = [sys.executable, "-I", "-S", "-c", _LOCK_ELSEWHERE, str(file)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _try_map(folder: Path) -> None:
    content = os.urandom(CONTENT)
    (folder / "mapped").write_bytes(content)
    with (folder / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        if view[:] != content:
            raise Unfit("a mapped file shows other contents than the file")
        view[:3] = b"new"
        view.flush()
    if (folder / "mapped").read_bytes() != b"new" + content[3:]:
        raise Unfit("what is written to a mapping does not reach the file")
