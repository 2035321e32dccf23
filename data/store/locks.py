"""Lock a store, or some of its shards, for writing, so that two runs never write the same shards.

Every run that writes leaves a file `_lock.<host>.<pid>.<random>` in the store that says which shards it locks.
In a folder its owner holds an flock on that file, which ends with the process. On an object store the owner writes the
file again every `HEARTBEAT` seconds; one older than `EXPIRY` counts as dead, and so does one of an ended process of
this host. Should a suspended run count as dead, both write equal bytes to equal names, and the store stays whole.
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import BadInput
from ...files import is_temporary, lock
from .location import Location, UrlPath, names_in

HEARTBEAT = 60.0  # seconds
EXPIRY = 300.0
PREFIX = "_lock."


@dataclass(frozen=True)
class Owner:
    """A run that holds a lock. shards: those it may write; None: all."""

    host: str
    pid: int
    shards: frozenset[int] | None

    @classmethod
    def parse(cls, content: bytes) -> "Owner":
        """Raises `BadInput` for what no run of this package has written."""
        try:
            values = json.loads(content)
            shards = values["shards"]
            return cls(str(values["host"]), int(values["pid"]), None if shards is None else frozenset(map(int, shards)))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"a lock file is damaged ({error}); delete the _lock.* files of the store") from error

    def to_json(self) -> bytes:
        shards = None if self.shards is None else sorted(self.shards)
        return json.dumps({"host": self.host, "pid": self.pid, "shards": shards}).encode()

    def check_overlap(self, path: Location, others: Iterable["Owner"]) -> None:
        """Raises `BadInput` that names the owner when another run has locked any of the same shards of a store."""
        for other in others:
            if self.shards is None or other.shards is None or self.shards & other.shards:
                some = other.shards and f"{len(other.shards)} shards of it, some of them asked for here,"
                writing = f"process {other.pid} on {other.host} is writing to {some or 'it'}"
                raise BadInput(f"{path}: {writing}; wait for it or stop it, or give the runs shards of their own")

    def is_dead_here(self) -> bool:
        """Whether it was a process of this host that has ended."""
        try:
            os.kill(self.pid, 0)
        except OSError as error:  # also raised for a living process of another user
            return isinstance(error, ProcessLookupError) and self.host == socket.gethostname()
        return False


@contextmanager
def lock_store(path: Location, shards: Collection[int] | None = None) -> Iterator[None]:
    """Lock a store, or some of its shards, for writing.

    Raises `BadInput` that names the owner when another run has locked any of them.
    """
    me = Owner(socket.gethostname(), os.getpid(), None if shards is None else frozenset(shards))
    name = f"{PREFIX}{me.host}.{me.pid}.{secrets.token_hex(4)}"
    with _lock_folder(path, name, me) if isinstance(path, Path) else _lock_url(path, name, me):
        yield


@contextmanager
def lock_metadata(path: Location) -> Iterator[None]:
    """Wait for the exclusive lock on the metadata of a store in a folder, held as long as looking and writing take.

    There is none on an object store, and what is written does not need it: equal stores have equal metadata.
    """
    if isinstance(path, UrlPath):
        yield
        return
    path.mkdir(parents=True, exist_ok=True)
    with (path / "_lock").open("a") as file:
        lock(file, path, wait=True)
        yield


@contextmanager
def _lock_folder(path: Path, name: str, me: Owner) -> Iterator[None]:
    with ExitStack() as stack:
        with lock_metadata(path):
            others = [owner for other in _lock_files(path) if (owner := _owner(path, other))]
            me.check_overlap(path, others)
            file = stack.enter_context((path / name).open("xb", buffering=0))
            stack.callback((path / name).unlink, missing_ok=True)
            lock(file, path, wait=True)
            file.write(me.to_json())
            if not others:
                _remove_leftovers(path)
        yield


def _lock_files(path: Location) -> list[str]:
    return [name for name in names_in(path) if name.startswith(PREFIX)]


def _owner(path: Path, name: str) -> Owner | None:
    """The live owner of a lock file in a store's folder; the file of one that has ended is removed."""
    with (path / name).open("r+b") as file:
        try:
            lock(file, path, wait=False)
        except BlockingIOError:
            return Owner.parse(file.read())
        (path / name).unlink()
        return None


@contextmanager
def _lock_url(path: UrlPath, name: str, me: Owner) -> Iterator[None]:
    """Announce first, look second: of two that start at once at least one sees the other, and gives way."""
    own = path / name
    own.write_bytes(me.to_json())
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):  # the next one may get through
                own.write_bytes(me.to_json())

    heart = threading.Thread(target=beat, name="lock-heartbeat", daemon=True)
    try:
        me.check_overlap(path, _other_owners(path, own))
        heart.start()
        yield
    finally:
        ended.set()
        if heart.ident is not None:
            heart.join()
        own.unlink(missing_ok=True)


def _other_owners(path: UrlPath, own: UrlPath) -> list[Owner]:
    """Live owners of the other lock files of a store; files of dead ones are removed."""
    now = own.modified()  # ages are taken by one clock, the server's
    live = []
    for other in (path / name for name in _lock_files(path) if name != own.name):
        with suppress(FileNotFoundError):  # it has just ended
            owner = Owner.parse(other.read_bytes())
            if now - other.modified() > EXPIRY or owner.is_dead_here():
                other.unlink(missing_ok=True)
            else:
                live.append(owner)
    return live


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers that were killed: beside metadata, receipts, and unfinished shards."""
    done = {name.removesuffix(".json") for name in names_in(path / "_done")}
    for folder in (path, *(p for p in path.iterdir() if p.is_dir())):
        _remove_temporaries(folder.iterdir())
        shards = folder / "c"
        if shards.is_dir():
            _remove_temporaries(shards.iterdir())  # the shards of arrays of one dimension are files there
            for shard in names_in(shards):
                if shard.zfill(6) not in done:
                    _remove_temporaries((shards / shard).rglob("*"))


def _remove_temporaries(files: Iterator[Path]) -> None:
    for file in list(files):
        if is_temporary(file.name):
            file.unlink(missing_ok=True)
