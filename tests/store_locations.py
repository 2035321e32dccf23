"""The kinds of places where a store can be, and what can happen to it there.

A fixture that is parametrised by `KINDS` and calls `open_place` makes a test class the contract of all of them.
"""

import errno
import functools
import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from combo_avs.data.store import location as places
from combo_avs.data.store.location import Location, UrlPath, files_below, location

KINDS = ("folder", "memory", "s3")


def open_place(kind: str, tmp_path: Path) -> str:
    """A cache root with nothing in it, as a user would name it."""
    if kind == "folder":
        return str(tmp_path / uuid.uuid4().hex[:8])
    if kind == "memory":
        return f"memory://{uuid.uuid4().hex[:8]}/root"
    return f"s3://{_bucket()}/{uuid.uuid4().hex[:8]}"


@functools.cache
def _bucket() -> str:
    """A bucket of an S3 server on loopback, which lives as long as this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()  # one that a test before made knows no credentials
    fsspec.filesystem("s3", **places.URL_OPTIONS).mkdir("caches")
    return "caches"


def contents(root: str | Location) -> dict[str, bytes]:
    """All files that equal work must make equal: times, locks and temporary files of killed writers aside."""
    folder = location(root)
    names = [n for n in files_below(folder) if "_log/" not in n and not Path(n).name.startswith("_lock")]
    return {name: (folder / name).read_bytes() for name in sorted(names)}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """End the writer before its `step`-th change of what is stored, or sync of it. Swallows the end."""
    try:
        with failing_at(step, Killed):
            yield
    except Killed:
        pass


@contextmanager
def full_at(step: int) -> Iterator[None]:
    """From its `step`-th change on, the location is full."""
    with failing_at(step, lambda: OSError(errno.ENOSPC, "No space left on device"), for_ever=True):
        yield


@contextmanager
def failing_at(step: int, error: Callable[[], BaseException], for_ever: bool = False) -> Iterator[None]:
    counter = itertools.count()

    def before() -> None:
        now = next(counter)
        if now == step or (for_ever and now > step):
            raise error()

    with _before_every_step(before):
        yield


def count_steps(work: Callable[[], Any]) -> int:
    """How many steps a piece of work has."""
    counter = itertools.count()
    with _before_every_step(lambda: next(counter)):
        work()
    return next(counter)


@contextmanager
def _before_every_step(do: Callable[[], Any]) -> Iterator[None]:
    def stepped(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            do()
            return original(*args, **kwargs)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "replace"), (os, "fsync"), (UrlPath, "write_bytes")):
            patch.setattr(owner, name, stepped(getattr(owner, name)))
        yield
