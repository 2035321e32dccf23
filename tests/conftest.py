"""What a machine lacks is left out, not skipped, and the last line of a run says in words what that was."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from golden import ROOT, whole_set
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of child processes: tests share the cores
SAMPLES = Path(os.environ.get("COMBO_SAMPLES", ROOT.parent / "shared" / "samples"))
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # no test depends on time
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Need(NamedTuple):
    """What tests with a marker need of the machine."""

    met: Callable[[], bool]
    words: str


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


NEEDS = {
    "gpu": Need(_has_gpu, "a CUDA device"),
    "reference": Need(lambda: whole_set() is not None, "the whole set of golden fixtures, which COMBO_REFERENCE names"),
    "samples": Need(SAMPLES.is_dir, "real clips of AVSBench, which COMBO_SAMPLES names"),
    "browser": Need(lambda: CHROMIUM is not None, "Chromium in PATH"),
}
MARKER_OF_FIXTURE = {"real_clips": "samples", "chromium": "browser"}
LEFT_OUT = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """A folder with mini_avsbench and metadata, which may not be redistributed."""
    return SAMPLES


@pytest.fixture(scope="session")
def chromium() -> str:
    assert CHROMIUM is not None
    return CHROMIUM


def pytest_itemcollected(item: pytest.Item) -> None:
    for name in set(MARKER_OF_FIXTURE) & set(getattr(item, "fixturenames", ())):
        item.add_marker(MARKER_OF_FIXTURE[name])


def missing(item: pytest.Item) -> str | None:
    """What a test needs and does not find, in words."""
    if item.name.endswith("[NOTSET]") and os.environ.get("COMBO_REFERENCE"):  # its list of fixtures is empty
        return "fixtures that the folder named by COMBO_REFERENCE does not hold"
    needs = (need for marker, need in NEEDS.items() if item.get_closest_marker(marker))
    return next((need.words for need in needs if not need.met()), None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Comes after -m and -k: only what was asked for counts as left out."""
    found = [(item, missing(item)) for item in items]
    config.stash[LEFT_OUT] = Counter(words for _, words in found if words)
    config.hook.pytest_deselected(items=[item for item, words in found if words])
    items[:] = [item for item, words in found if not words]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    left_out = session.config.stash.get(LEFT_OUT, Counter())
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(left_out)
    elif exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and left_out:
        session.exitstatus = pytest.ExitCode.OK  # all that was asked for needs what this machine lacks


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every process of pytest-xdist collects all tests, so each leaves out the same."""
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reporter, left_out = config.pluginmanager.get_plugin("terminalreporter"), config.stash.get(LEFT_OUT, None)
    if reporter and left_out and not hasattr(config, "workeroutput"):
        parts = [f"{words} ({count})" for words, count in sorted(left_out.items())]
        reporter.write_line("Left out: tests that need " + "; ".join(parts) + ".")
