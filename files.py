"""Files of this machine: replaced as a whole, hashed, locked. For `data/`, `model/` and `pipeline/` alike.

A file that this package writes appears at its name only when it is complete and on the disk, so a kill or a power cut
leaves the old one or the new one. Until then it is called `.<name>.<pid>-<random>.tmp`; see `is_temporary`.
"""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import BadInput

_ENDING = ".tmp"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file, whose folder is made where it is missing. Text is stored as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """A temporary name beside `path` to write to; it replaces `path` when the block ends without an error.

    ending: of the temporary name, for writers that go by it.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_ENDING}{ending}")
    try:
        yield temporary
        publish(temporary, path)
    except (Exception, KeyboardInterrupt, SystemExit):
        with suppress(OSError):
            temporary.unlink()
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, with their names on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync(made.parent)


def is_temporary(name: str) -> bool:
    """Whether a file belongs to a writer at work, or to one that was killed."""
    return name.startswith(".") and name.endswith(_ENDING)


def publish(temporary: Path, path: Path) -> None:
    """Rename a complete file or folder, with all of it on the disk before and the new name after."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> int:
    """Flush a file, or the names in a folder, to the disk. Returns its size in bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read piece by piece; 64 hex digits. Raises `BadInput` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def lock(file: IO | int, path: Path, *, wait: bool) -> None:
    """Lock an open file or folder (flock) for this process alone, until it is closed or the process ends, however.

    Raises `BlockingIOError` when another process has the lock and `wait` is off, and `BadInput` when the file system
    of `path` has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            what = f"this file system has no file locks ({error.strerror})"
            raise BadInput(f"{path}: {what}; mount it with them (Lustre: -o flock)") from error
        raise
