"""Cleaning a root: only what can go, only when asked, and never under a run that writes."""

import json
import shutil
from pathlib import Path

import pytest

from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.root import create_proposals, list_caches
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.pipeline.caches.gc import clean
from combo_avs.pipeline.caches.inspect import verify_root
from combo_avs.pipeline.imports.clips import import_clips


@pytest.fixture
def littered(prepared: Path, tmp_path: Path) -> Path:
    """A root with a stale cache, an unfinished one, and a temporary file."""
    root = Path(shutil.copytree(prepared, tmp_path / "root"))
    import_clips(SyntheticSource("ms3", 10, 5, 64), tmp_path / "other", 10)
    stale = create_proposals(ClipStore(tmp_path / "other"), Provenance("stale", "1", {}))
    shutil.copytree(stale.path, root / "proposals" / stale.path.name)
    create_proposals(ClipStore(root), Provenance("begun", "1", {}))
    (root / "clips.zarr" / ".zarr.json.123-abcd.tmp").write_bytes(b"x" * 100)
    return root


def names(root: Path) -> list[str]:
    return [c.provenance.name for c in list_caches(root)]


def test_by_default_nothing_is_deleted(littered: Path) -> None:
    before = sorted(littered.rglob("*"))
    found = clean(littered, unfinished=True)
    assert sorted(littered.rglob("*")) == before
    assert len(found.found) == 3
    assert "--delete" in str(found)
    assert json.loads(json.dumps(found.to_json()))["deleted"] is False


def test_deletes_what_is_stale_and_left_over(littered: Path) -> None:
    clean(littered, delete=True)
    assert names(littered) == ["begun", "felzenszwalb", "logmel"]
    assert not list(littered.rglob("*.tmp"))
    assert not list(littered.rglob("stale*"))


def test_unfinished_ones_go_only_when_asked(littered: Path) -> None:
    clean(littered, unfinished=True, delete=True)
    assert names(littered) == ["felzenszwalb", "logmel"]
    assert verify_root(littered) == []
    assert clean(littered).found == ()


def test_what_a_run_holds_stays(littered: Path) -> None:
    begun = next(c for c in list_caches(littered) if c.provenance.name == "begun")
    with lock_store(begun.path):
        report = clean(littered, unfinished=True, delete=True)
    assert "begun" in names(littered)
    assert [r.held for r in report.found if "begun" in r.path.name] == [True]


def test_an_unfinished_import_is_refused(littered: Path) -> None:
    ClipStore(littered).invalidate([0])
    with pytest.raises(BadInput, match="missing"):
        clean(littered, delete=True)
