"""Where stores live: a folder of this machine or of a network file system, or any URL that fsspec knows.

Folders are `Path`s; everything else is a `UrlPath`, the part of `Path`'s interface that stores need. Every write
replaces a file as a whole: in a folder with `files.write_atomic`, behind a URL because uploads are all or nothing.
fsspec's own local files are not used: they leave half-written files at their final names when the writer is killed.
"""

import errno
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...files import write_atomic

URL_OPTIONS = {"use_listings_cache": False}  # what another process has written must be seen at once
REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, order=True)
class UrlPath:
    """A file, or a prefix of files, behind a URL. Every failure to reach it is an `OSError` that names it."""

    url: str  # without a slash at its end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "UrlPath":
        return UrlPath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def parent(self) -> "UrlPath":
        return UrlPath(self.url.rsplit("/", 1)[0])

    def file_system(self) -> tuple[Any, str]:
        """The file system of fsspec and the name within it. Contacts nothing.

        Raises `BadInput` when no installed package speaks the protocol.
        """
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.url, **URL_OPTIONS)
        except ImportError as error:
            package = "pip install 'combo-avs[s3]'" if self.url.startswith("s3") else str(error)
            raise BadInput(f"{self.url}: a package for this kind of URL is missing: {package}") from error
        except ValueError as error:
            raise BadInput(f"{self.url}: not a cache root ({error}); name a folder or a URL like s3://...") from error

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The drivers raise classes of their own for missing credentials, lost connections and the like."""
        found = self.file_system()
        try:
            yield found
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.url}: {error}") from error
        except Exception as error:
            raise OSError(f"{self.url}: {type(error).__name__}: {error}") from error

    def exists(self) -> bool:
        """Whether there is a file of this name, or any file below it."""
        with self._reached() as (fs, name):
            return fs.exists(name)

    def read_bytes(self) -> bytes:
        with self._reached() as (fs, name):
            return fs.cat_file(name)

    def write_bytes(self, content: bytes) -> None:
        with self._reached() as (fs, name):
            fs.pipe_file(name, content)

    def unlink(self, *, missing_ok: bool = False) -> None:
        with suppress(*[FileNotFoundError] * missing_ok), self._reached() as (fs, name):
            fs.rm_file(name)

    def size(self) -> int:
        with self._reached() as (fs, name):
            return fs.info(name)["size"]

    def modified(self) -> float:
        """Seconds since 1970, by the clock of the server."""
        with self._reached() as (fs, name):
            return fs.modified(name).timestamp()

    def files(self) -> dict[str, int]:
        """Bytes of every file below, by its relative name."""
        with suppress(FileNotFoundError), self._reached() as (fs, name):
            found = fs.find(name, detail=True)
            return {k[len(name) + 1 :]: v["size"] for k, v in found.items() if k.startswith(name + "/")}
        return {}

    def names(self) -> list[str]:
        """Names of the files and prefixes directly below."""
        with suppress(FileNotFoundError), self._reached() as (fs, name):
            return [k.rstrip("/").rsplit("/", 1)[1] for k in fs.ls(name, detail=False)]
        return []


Location = Path | UrlPath


def location(root: str | Path | UrlPath) -> Location:
    """A folder or a URL. `Path("s3://bucket/x")`, which becomes s3:/bucket/x, is read as the URL.

    Raises `BadInput` for a kind of URL that no installed package can reach. Nothing is contacted.
    """
    if isinstance(root, UrlPath):
        return root
    if "::" in str(root):
        raise BadInput(f"{root}: a cache root cannot be a chain of URLs")
    url = re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.*?)/*", str(root))
    if url is None:
        return Path(root)
    if url[1] in ("file", "local"):
        return Path("/" + url[2])
    path = UrlPath(f"{url[1]}://{url[2]}")
    path.file_system()
    return path


def absolute(root: str | Location) -> str:
    """A folder or a URL as text that means the same in every working directory."""
    path = location(root)
    return str(path.absolute() if isinstance(path, Path) else path)


@contextmanager
def reaching(path: Location) -> Iterator[None]:
    """For the first contact with a cache root: `BadInput` if it is not there, or permission is denied."""
    try:
        yield
    except OSError as error:
        if isinstance(path, UrlPath):
            advice = "check the name, the credentials and the endpoint (for s3: the AWS_... variables)"
            raise BadInput(f"cannot reach {error}; {advice}") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadInput(f"no cache root can be there: {error}") from error
        raise


def write_file(path: Location, content: bytes) -> None:
    """Replace a file as a whole: readers see the old one or the new one, also after a kill or a power cut."""
    if isinstance(path, UrlPath):
        path.write_bytes(content)
    else:
        write_atomic(path, content)


def sizes(folder: Location, names: list[str]) -> dict[str, int | None]:
    """Bytes of each of these files below a folder; None for those that are missing."""
    if isinstance(folder, Path):
        return {name: _size(folder / name) for name in names}
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return dict(zip(names, pool.map(_size, (folder / name for name in names)), strict=True))


def _size(path: Location) -> int | None:
    try:
        return path.size() if isinstance(path, UrlPath) else path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def files_below(folder: Location) -> dict[str, int]:
    """Bytes of every file below a folder, by its relative name."""
    if isinstance(folder, UrlPath):
        return folder.files()
    found: dict[str, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            if (size := _size(Path(parent, name))) is not None:  # None: a writer's temporary file that has gone
                found[os.path.relpath(os.path.join(parent, name), folder)] = size
    return found


def names_in(folder: Location) -> list[str]:
    """Names of what stands directly in a folder, in order; none when there is no such folder."""
    try:
        return sorted(folder.names() if isinstance(folder, UrlPath) else os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
