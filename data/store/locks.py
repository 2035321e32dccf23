"""Holding a store for writing, so that two runs never do the same shards, and cleaning up after killed ones.

Every run that writes leaves a file `_lock.<host>.<pid>.<random>` in the store that says which shards it holds.
In a folder that file is locked by its owner (flock): the lock ends with the process, however it ends. On an object
store the owner writes it again every `HEARTBEAT` seconds, and one that is older than `EXPIRY` is taken for dead; so is
one of a process of this host that is not there any more. Should a run be taken for dead that is only suspended, both
write equal bytes to equal names, and the store stays whole.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import BadInput
from ...files import is_temporary, lock
from .location import Location, UrlPath, names_in

HEARTBEAT = 60.0  # seconds
EXPIRY = 300.0
PREFIX = "_lock."


@dataclass(frozen=True)
class Holder:
    """A run that writes. shards: those it may write; None: all."""

    host: str
    pid: int
    shards: frozenset[int] | None

    @classmethod
    def here(cls, shards: Collection[int] | None) -> "Holder":
        return cls(socket.gethostname(), os.getpid(), None if shards is None else frozenset(shards))

    @classmethod
    def parse(cls, content: bytes) -> "Holder":
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

    def overlaps(self, other: "Holder") -> bool:
        return self.shards is None or other.shards is None or not self.shards.isdisjoint(other.shards)

    def is_dead_here(self) -> bool:
        """Whether it was a process of this host that has ended."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


@contextmanager
def hold(path: Location, shards: Collection[int] | None = None) -> Iterator[None]:
    """Hold a store, or some of its shards, for writing.

    Raises `BadInput` that names the holder when another run holds any of them.
    """
    own = path / f"{PREFIX}{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    with _hold_folder(path, own, shards) if isinstance(path, Path) else _hold_url(path, own, shards):
        yield


@contextmanager
def guarded(path: Location) -> Iterator[None]:
    """Alone with the metadata of a store in a folder for the moment that it takes to look at it or to write it.

    On an object store nobody is alone, and nothing that is written needs it: equal stores have equal metadata.
    """
    if isinstance(path, UrlPath):
        yield
        return
    path.mkdir(parents=True, exist_ok=True)
    with (path / "_lock").open("a") as file:
        lock(file, path, wait=True)
        yield


@contextmanager
def _hold_folder(path: Path, own: Path, shards: Collection[int] | None) -> Iterator[None]:
    me = Holder.here(shards)
    with contextlib.ExitStack() as stack:
        with guarded(path):
            others = [holder for name in names_in(path) if (holder := _living(path, name))]
            _refuse_overlap(path, me, others)
            file = stack.enter_context(own.open("xb", buffering=0))
            stack.callback(own.unlink, missing_ok=True)
            lock(file, path, wait=True)
            file.write(me.to_json())
            if not others:
                _remove_leftovers(path)
        yield


def _living(path: Path, name: str) -> Holder | None:
    """The holder behind a file of a store's folder; the file of one that has ended is removed."""
    if not name.startswith(PREFIX):
        return None
    with (path / name).open("r+b") as file:
        try:
            lock(file, path, wait=False)
        except BlockingIOError:
            return Holder.parse(file.read())
        (path / name).unlink()
        return None


@contextmanager
def _hold_url(path: UrlPath, own: UrlPath, shards: Collection[int] | None) -> Iterator[None]:
    """Announce first, look second: of two that start at once at least one sees the other, and gives way."""
    me = Holder.here(shards)
    own.write_bytes(me.to_json())
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):  # the next one may get through
                own.write_bytes(me.to_json())

    heart = threading.Thread(target=beat, name="holding", daemon=True)
    try:
        _refuse_overlap(path, me, _living_beside(path, own))
        heart.start()
        yield
    finally:
        ended.set()
        if heart.ident is not None:
            heart.join()
        own.unlink(missing_ok=True)


def _living_beside(path: UrlPath, own: UrlPath) -> list[Holder]:
    now = own.modified()  # ages are taken by one clock, the server's
    living = []
    for name in names_in(path):
        other = path / name
        if not name.startswith(PREFIX) or other == own:
            continue
        with suppress(FileNotFoundError):  # it has just ended
            holder = Holder.parse(other.read_bytes())
            if now - other.modified() > EXPIRY or holder.is_dead_here():
                other.unlink(missing_ok=True)
            else:
                living.append(holder)
    return living


def _refuse_overlap(path: Location, me: Holder, others: list[Holder]) -> None:
    for other in others:
        if me.overlaps(other):
            what = "it" if other.shards is None else f"{len(other.shards)} shards of it, some of them asked for here,"
            raise BadInput(
                f"{path}: process {other.pid} on {other.host} is writing to {what}; wait for it or stop it, "
                "or give the runs shards of their own"
            )


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers that were killed: beside metadata, receipts, and undone shards."""
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
