"""A folder for Dask's own files that does not stay behind, however the run ends."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from ...files import lock

PREFIX = "combo-dask-"
SECONDS_TO_LOCK = 60.0  # a folder this young may be that of a run which is about to lock it


@contextmanager
def scratch_folder() -> Iterator[str]:
    """An empty folder of this run, locked while it lives. It goes at the end; those of runs that were killed go now."""
    _remove_abandoned(Path(gettempdir()))
    with TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder, _locked(Path(folder)):
        yield folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock ends with the process, whatever ends it. Raises `BlockingIOError` when another process has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock(handle, folder, wait=False)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it has just gone, or is in use
            status = folder.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > SECONDS_TO_LOCK:
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)
