"""Run tests against a copy of the package with one wrong edit: are they noticed?

The working tree is never changed: every process has a copy of its own, in which one file is changed and changed back.
No bytecode is written, so that none is stale. A mutant is killed when a test fails, when its tests cannot even be
collected, or when they hang; no other time-out decides anything.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from .table import Mutant

HANGS = 1800  # seconds; the slowest tests of a table take one
UNNEEDED = shutil.ignore_patterns(".*", "__pycache__", "build", "demo", "dist", "*.egg-info")
MARKERS = "not slow and not gpu"
FAILED, CANNOT_COLLECT = 1, 2  # exit codes of pytest


class Outcome(NamedTuple):
    """What the tests said about a mutant. killer: the first test that failed; None: it survived."""

    mutant: Mutant
    killer: str | None
    seconds: float


class Broken(Exception):
    """The tests cannot judge: they fail without any edit, or did not run."""


@contextmanager
def copies(package: Path, count: int) -> Iterator[list[Path]]:
    """`count` copies of the package, each in a folder named as it is."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        made = [Path(folder, str(i), "combo_avs") for i in range(count)]
        for copy in made:
            shutil.copytree(package, copy, ignore=UNNEEDED)
        yield made


def check_unchanged(copy: Path, mutants: Iterable[Mutant], jobs: int) -> None:
    """Raises Broken unless all tests of the mutants pass in a copy without any edit."""
    command = [sys.executable, "-c", "import combo_avs; print(combo_avs.__file__)"]
    imported = subprocess.check_output(command, cwd=copy.parent, env=_environment(copy), text=True).strip()
    if Path(imported).parent != copy:
        raise Broken(f"tests would import {imported}, not the copy {copy}")
    files = sorted({path for mutant in mutants for path in mutant.tests})
    parallel = ["--numprocesses", str(jobs)] if jobs > 1 else []
    code, output = _pytest(copy, [*parallel, *files])
    if code:
        raise Broken(f"the tests do not pass without any edit:\n{output}")


def judge(mutants: list[Mutant], places: list[Path], report: Callable[[Outcome], None]) -> list[Outcome]:
    """Run every mutant, as many at once as there are copies. Raises Broken if tests did not run."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in places:
        free.put(copy)

    def one(mutant: Mutant) -> Outcome:
        copy = free.get()
        try:
            return _outcome(mutant, copy)
        finally:
            free.put(copy)

    outcomes = []
    with ThreadPoolExecutor(len(places)) as pool:
        try:
            for future in as_completed([pool.submit(one, mutant) for mutant in mutants]):
                outcomes.append(future.result())
                report(outcomes[-1])
        finally:
            pool.shutdown(cancel_futures=True)
    return outcomes


def _outcome(mutant: Mutant, copy: Path) -> Outcome:
    path = copy / mutant.file
    source = path.read_text()
    started = time.monotonic()
    path.write_text(mutant.applied(source))
    try:
        code, output = _pytest(copy, ["--exitfirst", *mutant.tests])
    except subprocess.TimeoutExpired:
        return Outcome(mutant, f"{' '.join(mutant.tests)} (hangs)", time.monotonic() - started)
    finally:
        path.write_text(source)
    return Outcome(mutant, _killer(mutant, code, output), time.monotonic() - started)


def _killer(mutant: Mutant, code: int, output: str) -> str | None:
    if code == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if code not in (FAILED, CANNOT_COLLECT) or not failed:
        raise Broken(f"{mutant.name}: pytest ended with {code}:\n{output}")
    return failed[1]


def _pytest(copy: Path, arguments: list[str]) -> tuple[int, str]:
    """Exit code and output. Raises TimeoutExpired if tests hang, and ends all that they started."""
    options = ["-m", MARKERS, "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=copy,
        env=_environment(copy),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=HANGS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


def _environment(copy: Path) -> dict[str, str]:
    changes = {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    return os.environ | changes
