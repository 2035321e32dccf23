"""What checks, plans or finds nothing to do leaves every file of a run and of a comparison as it is."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_network import TINY

from combo_avs.errors import BadInput
from combo_avs.pipeline.compare.grid import Comparison, compare, plan_cells, tabulate
from combo_avs.pipeline.compare.variants import plan_variants
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.train.loop import train

CACHES = ("felzenszwalb", "logmel")


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file, by its relative name; folders, too."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def finished(prepared: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stands at step 2 of 2, and a comparison of two seeds with one step. Do not write here."""
    folder = tmp_path_factory.mktemp("finished")
    train(DataNames(prepared, *CACHES), config, folder / "run")
    evaluate_run(folder / "run", device="cpu")
    compare(comparison(prepared, [0, 1]), folder / "compare")
    return folder


@pytest.fixture
def there(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "there"))


def comparison(root: Path, seeds: list[int], *overrides: str) -> Comparison:
    settings = [*TINY, "train.steps=1", "train.device=cpu", *overrides]
    return Comparison(root, "tiny", plan_variants([], *CACHES), seeds, settings)


def resumed(root: Path, folder: Path, config: Config, **changes: object) -> str:
    changed = config.model_copy(update={"train": config.train.model_copy(update=changes)})
    return str(train(DataNames(root, *CACHES), changed, folder / "run", resume=True))


@pytest.mark.parametrize("changes", [{}, {"steps": 1}, {"evaluate_every": 1, "checkpoint_every": 7}], ids=str)
def test_a_run_with_nothing_left_to_do(prepared: Path, config: Config, there: Path, changes: dict) -> None:
    before, times = tree(there), {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    assert resumed(prepared, there, config, **changes) == f"already at step 2: {there / 'run'}"
    assert tree(there) == before
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == times


REFUSED: dict[str, Callable[[Path, Path, Config], object]] = {
    "a resume with other settings": lambda root, there, config: resumed(root, there, config, lr=0.5),
    "a new run in its folder": lambda root, there, config: train(DataNames(root, *CACHES), config, there / "run"),
    "a finished comparison with other evaluations": lambda root, there, config: compare(
        comparison(root, [0, 1], "train.evaluate_every=3"), there / "compare"
    ),
    "a comparison with another learning rate": lambda root, there, config: compare(
        comparison(root, [0], "train.lr=0.5"), there / "compare"
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(prepared: Path, config: Config, there: Path, what: str) -> None:
    before = tree(there)
    with pytest.raises(BadInput):
        REFUSED[what](prepared, there, config)
    assert tree(there) == before


def test_a_comparison_is_not_scored_with_fewer_steps_than_it_was_trained(prepared: Path, there: Path) -> None:
    longer = comparison(prepared, [0], "train.steps=2")
    compare(longer, there / "compare")  # more steps are trained
    before = tree(there)
    with pytest.raises(BadInput, match=r"already at step 2:\n.*train\.steps was 2, is 1"):
        compare(comparison(prepared, [0]), there / "compare")
    assert tree(there) == before


LOOKS: dict[str, Callable[[Path, Path], object]] = {
    "evaluate": lambda root, there: evaluate_run(there / "run", device="cpu"),
    "plan": lambda root, there: plan_cells(comparison(root, [0, 1, 2]), there / "compare"),
    "tabulate": lambda root, there: tabulate(comparison(root, [0, 1, 2]), there / "compare"),
    "the same comparison": lambda root, there: compare(comparison(root, [0, 1]), there / "compare"),
    "a part of the comparison": lambda root, there: compare(comparison(root, [1]), there / "compare"),
}


@pytest.mark.parametrize("what", LOOKS)
def test_what_only_looks(prepared: Path, there: Path, what: str) -> None:
    before = tree(there)
    LOOKS[what](prepared, there)
    assert tree(there) == before


def test_a_table_that_is_gone_is_written_again(prepared: Path, there: Path) -> None:
    before = tree(there)
    for name in ("compare.json", "compare.md"):
        (there / "compare" / name).unlink()
    compare(comparison(prepared, [0, 1]), there / "compare")
    assert tree(there) == before
