"""Commands and functions that check or plan leave every file as it was, in whole roots and in damaged ones."""

import shutil
from pathlib import Path

import pytest
from report_targets import make_root, make_run

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.store.metadata import check_metadata
from combo_avs.data.store.receipts import read_receipt
from combo_avs.data.store.root import list_caches
from combo_avs.data.store.store import ClipStore
from combo_avs.data.store.verify import check_store
from combo_avs.errors import BAD_INPUT, DONE, FAILED
from combo_avs.pipeline.caches.gc import plan_cleaning
from combo_avs.pipeline.report.targets import find_targets

TEMPORARY = ".zarr.json.123-abcd.tmp"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root, and a run on it."""
    folder = tmp_path_factory.mktemp("checks")
    make_run(make_root(folder / "root", 7, proposals=("none", "felzenszwalb")), folder / "run")
    return folder


@pytest.fixture(scope="module")
def damaged(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `whole`, with a cut file, a missing receipt, a leftover of a killed writer, and a cut log and weights."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("checks") / "damaged"))
    first, *_, last = list_caches(folder / "root")
    last.invalidate([0])
    shard = next(p for p in (Path(first.path) / "maskige" / "c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    (folder / "root" / "clips.zarr" / TEMPORARY).write_bytes(b"half")
    for name in ("log.jsonl", "best/model.safetensors"):
        (folder / "run" / name).write_bytes((folder / "run" / name).read_bytes()[:-9])
    return folder


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and contents of every file."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.mark.parametrize(
    "command",
    [
        "cache info ROOT",
        "cache verify ROOT",
        "cache diff ROOT none felzenszwalb",
        "cache gc ROOT",
        "cache gc ROOT --unfinished --json",
        "precompute ROOT --proposals none --audio logmel --dry-run",
        "precompute ROOT --proposals felzenszwalb --set precompute.generator.sigma=2 --dry-run",
        "doctor ROOT RUN",
        "train ROOT --preset tiny --show-config",
        "report ROOT RUN --out OUT --split none",
    ],
)
@pytest.mark.parametrize("kind", ["whole", "damaged"])
def test_commands(kind: str, command: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture) -> None:
    folder = request.getfixturevalue(kind)
    before = state(folder)
    names = {"ROOT": folder / "root", "RUN": folder / "run", "OUT": folder / "out"}
    code = run(app, [str(names.get(word, word)) for word in command.split()])
    assert code in ({DONE, BAD_INPUT} if kind == "whole" else {DONE, BAD_INPUT, FAILED})
    assert capsys.readouterr() != ("", "")
    assert state(folder) == before


def test_what_a_clean_up_would_delete(damaged: Path) -> None:
    before = state(damaged)
    found = plan_cleaning(damaged / "root", unfinished=True)
    assert {name for one in found for name in one.files} >= {TEMPORARY, "zarr.json"}
    assert state(damaged) == before


def test_targets_of_a_report(damaged: Path) -> None:
    before = state(damaged)
    assert find_targets([damaged / "root", damaged / "run"]).problems
    assert state(damaged) == before


@pytest.mark.parametrize("kind", ["whole", "damaged"])
def test_a_full_read_of_every_store(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    before, problems = state(folder), []
    for store in (ClipStore(folder / "root"), *list_caches(folder / "root")):
        problems += [problem for _, problem in check_store(store) if problem]
        receipts = [receipt for shard in range(store.num_shards) if (receipt := read_receipt(store.path, shard))]
        assert not any(store.check_receipt(receipt) for receipt in receipts)
        assert not check_metadata(store.path, store.metadata_files)
    assert bool(problems) == (kind == "damaged")
    assert state(folder) == before
