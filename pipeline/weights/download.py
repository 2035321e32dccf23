"""Download one large file so that every interruption is survived and nothing wrong takes its name."""

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tqdm import tqdm

from ...errors import BadInput, ComboError
from ...files import lock, publish
from ..common.progress import bar

Result = TypeVar("Result")

TRIES = 5  # in a row that bring no byte; every byte starts the count anew
PAUSE = 1.0  # seconds before the second try, doubled before each further one
SILENCE = 30.0  # seconds without a byte until a connection is given up


class _Broken(Exception):
    """A try failed in a way that the next one may not."""


def download(url: str, target: Path, size: int | None, check: Callable[[Path], str]) -> None:
    """Fetch `url` over http or https into `target`, whose folder exists.

    What arrives goes to `target`.part, which stays after any interruption; the next call asks the server for the rest,
    or takes all of it again from a server that cannot give parts. `target` appears, or is replaced, in one rename, when
    everything has come and `check` says nothing against it. If it does, and the file was joined from several calls, the
    whole is fetched once more.

    size: bytes; a server that announces another size is refused at once. None: not known.
    check: returns what is wrong with a file, or an empty string.
    Raises `BadInput` when another process downloads the same file, `ComboError` when the server has no such file or
    another one, when it cannot be reached or cuts the connection `TRIES` times in a row without a byte, and when https
    leads to http.
    """
    part = target.with_name(target.name + ".part")
    with part.open("ab") as out:
        try:
            lock(out, part, wait=False)
        except BlockingIOError:
            raise BadInput(f"{part}: another process is downloading it; wait for it or stop it") from None
        try:
            _fill(url, out, size, check)
            publish(part, target)
        finally:
            if _length(out) == 0:
                part.unlink(missing_ok=True)


def _fill(url: str, out: BinaryIO, size: int | None, check: Callable[[Path], str]) -> None:
    path = Path(out.name)
    with bar(size or 0, path.stem, "B", done=_length(out)) as progress:
        progress.unit_scale = True
        joined = _length(out) > 0
        while problem := _complete(url, out, progress, size) or check(path):
            out.truncate(0)
            if not joined:
                raise ComboError(f"{url} is not what was published as {path.stem}: {problem}. It was thrown away")
            joined = False


def _complete(url: str, out: BinaryIO, progress: tqdm, size: int | None) -> str:
    """Try until `out` holds all bytes. Returns what is wrong if the server has another file."""
    failures = 0
    while True:
        before = _length(out)
        try:
            return _receive(url, out, progress, size)
        except _Broken as error:
            failures = 1 if _length(out) > before else failures + 1
            if failures == TRIES:
                raise ComboError(
                    f"{url}: {error}, {TRIES} times in a row. {_length(out):,} bytes are kept; run the same command "
                    "again to continue with them"
                ) from error
            time.sleep(PAUSE * 2 ** (failures - 1))


def _receive(url: str, out: BinaryIO, progress: tqdm, size: int | None) -> str:
    """One connection: append to `out` what it lacks. Raises `_Broken` if it still lacks something."""
    have = _length(out)
    headers = {"User-Agent": "combo-avs"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    with _network(lambda: _open(request)) as response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise ComboError(f"{url} leads to {response.url}, which anybody on the way could replace; not downloaded")
        start, total = _extent(response, have)
        if size is not None and total not in (None, size):
            return f"it has {total:,} bytes instead of {size:,}"
        if response.status != 416 and response.headers.get_content_type() == "text/html":
            return "it is a web page"
        out.truncate(start)  # to nothing if the server cannot give parts
        progress.total = total
        progress.update(start - progress.n)
        while response.status != 416 and (piece := _network(lambda: response.read1(1 << 20))):
            out.write(piece)
            out.flush()
            progress.update(len(piece))
    if _length(out) < (total or size or 0):
        raise _Broken("the connection was cut")
    return ""


def _open(request: urllib.request.Request) -> Any:
    """The response. 416 is one, too: the server has no more bytes than we do."""
    try:
        return urllib.request.urlopen(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        raise


def _network(call: Callable[[], Result]) -> Result:
    """Returns `call()`; temporary failures become `_Broken`. For network calls only, never the disk."""
    try:
        return call()
    except urllib.error.HTTPError as error:
        if error.code >= 500 or error.code in (408, 429):
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        raise ComboError(f"{error.url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # timeouts and what urllib raises are OSErrors
        raise _Broken(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the bytes of a response belong in the file, and how long the file is, if the server says so."""
    if response.status == 200:
        length = response.headers.get("Content-Length")
        return 0, int(length) if length else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    total = int(match[2]) if match and match[2] != "*" else None
    if response.status == 416:
        return have if total is None else min(have, total), total
    if match is None or match[1] is None or int(match[1]) != have:
        raise _Broken("the server sends another part than the one asked for")
    return have, total


def _length(out: BinaryIO) -> int:
    return os.fstat(out.fileno()).st_size
