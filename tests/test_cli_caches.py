"""The commands that look at, check, compare, ship and clean caches, as typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.store.root import list_caches
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BAD_INPUT, DONE, FAILED


def combo(*arguments: str | Path) -> int:
    return run(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two proposals caches; do not write here."""
    root = tmp_path_factory.mktemp("caches") / "root"
    small = ["--size", "64", "--shard-frames", "20"]
    assert combo("import", "synthetic", root, "--flavour", "ms3", "--clips", 12, *small) == DONE
    assert combo("precompute", root, "--proposals", "felzenszwalb", "--audio", "logmel", "--workers", 0) == DONE
    assert combo("import", "ground-truth", root) == DONE
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(bytes(content))


class TestRepair:
    def test_caches_are_made_again(self, root: Path, made: Path, capsys: pytest.CaptureFixture) -> None:
        broken = [next(root.glob(p)) for p in ("proposals/felz*/maskige/c/1/0/0/0", "audio/*/features/c/0/0")]
        for path in broken:
            damage(path)
        assert combo("cache", "verify", root) == FAILED
        capsys.readouterr()
        assert combo("cache", "verify", root, "--repair", "--json") == DONE
        assert json.loads(capsys.readouterr().out)["ok"] is True
        for path in broken:
            assert path.read_bytes() == (made / path.relative_to(root)).read_bytes()

    def test_clips_need_their_import(self, root: Path, capsys: pytest.CaptureFixture) -> None:
        damage(next(root.glob("clips.zarr/frames/c/2/0/0/0")))
        assert combo("cache", "verify", root, "--repair") == FAILED
        out = capsys.readouterr().out
        assert "shards [2] must be imported again" in out
        small = ["--size", "64", "--shard-frames", "20"]
        assert combo("import", "synthetic", root, "--flavour", "ms3", "--clips", 12, *small) == DONE
        assert combo("cache", "verify", root) == DONE

    def test_imported_caches_need_their_command(self, root: Path, capsys: pytest.CaptureFixture) -> None:
        damage(next(root.glob("proposals/ground-truth*/maskige/c/0/0/0/0")))
        assert combo("cache", "verify", root, "--repair") == FAILED
        assert "must be redone by the command that made them" in capsys.readouterr().out
        assert combo("import", "ground-truth", root) == DONE
        assert combo("cache", "verify", root) == DONE

    def test_metadata(self, root: Path, made: Path) -> None:
        damage(next(root.glob("proposals/felz*/maskige/zarr.json")))
        assert combo("cache", "verify", root, "--repair") == DONE


def test_diff(made: Path, capsys: pytest.CaptureFixture) -> None:
    assert combo("cache", "diff", made, "felzenszwalb", "ground-truth", "--json") == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == ClipStore(made).frames
    assert combo("cache", "diff", made, "felzenszwalb", "nothing") == BAD_INPUT


def test_export_and_import(made: Path, tmp_path: Path) -> None:
    assert combo("cache", "export", made, tmp_path / "a.h5", "--split", "val", "--cache", "logmel") == DONE
    assert combo("cache", "import", tmp_path / "a.h5", tmp_path / "back") == DONE
    assert [c.provenance.name for c in list_caches(tmp_path / "back")] == ["logmel"]


def test_import_masks(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for clip in ClipStore(root).table:
        (tmp_path / "masks" / clip.id).mkdir(parents=True)
        for frame in range(clip.num_frames):
            np.save(tmp_path / "masks" / clip.id / f"{frame:05d}.npy", np.ones((1, 64, 64), bool))
    assert combo("cache", "import-masks", root, tmp_path / "masks", "--name", "mine") == DONE
    assert "--proposals mine-" in capsys.readouterr().out


def test_merge_and_gc(root: Path, made: Path, capsys: pytest.CaptureFixture) -> None:
    for cache in list_caches(root):
        cache.invalidate([1])
    assert combo("cache", "gc", root) == DONE
    assert "nothing to clean" in capsys.readouterr().out
    assert combo("cache", "gc", root, "--unfinished", "--json") == DONE
    assert len(json.loads(capsys.readouterr().out)["found"]) == 3
    assert combo("cache", "merge", root, made) == DONE
    assert combo("cache", "verify", root) == DONE


def test_shares_of_a_precompute_run(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(made / "clips.zarr", root / "clips.zarr")
    options = ["--proposals", "felzenszwalb", "--workers", 0]
    for share in ("1/2", "2/2"):
        assert combo("precompute", root, *options, "--shard", share) == DONE
    assert list_caches(root)[0].unfinished() == []
    assert combo("precompute", root, *options, "--shard", "3/2") == BAD_INPUT
    assert combo("precompute", root, *options, "--clips", "nobody") == BAD_INPUT
    assert combo("precompute", root, *options, "--scheduler", "tcp://127.0.0.1:1") == BAD_INPUT


def test_untrained_caches_say_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A comparison with the exact setting takes 1024 clicks; test_exactness makes it.
    monkeypatch.setattr("combo_avs.pipeline.precompute.worker.record_agreement", lambda *_: None)
    root = tmp_path / "root"
    shutil.copytree(made / "clips.zarr", root / "clips.zarr")
    few = ["--set", "precompute.generator.points_per_side=1", "--limit", 1, "--workers", 0]
    assert combo("precompute", root, "--proposals", "mobile-sam", "--dry-run", *few) == BAD_INPUT
    assert "combo weights fetch mobile-sam" in capsys.readouterr().err
    assert combo("precompute", root, "--proposals", "mobile-sam", "--untrained", *few) == DONE
    assert combo("cache", "info", root) == DONE
    assert "untrained-mobile-sam-" in capsys.readouterr().out


def test_show_config(capsys: pytest.CaptureFixture) -> None:
    assert combo("train", "--preset", "tiny", "--set", "train.lr=0.5", "--show-config") == DONE
    assert "lr: 0.5" in capsys.readouterr().out
    assert combo("train", "--preset", "tiny") == BAD_INPUT
    assert "ROOT, --proposals, --audio, --out" in capsys.readouterr().err


def test_doctor(made: Path, capsys: pytest.CaptureFixture) -> None:
    assert combo("doctor", made, "--json") == DONE
    assert json.loads(capsys.readouterr().out)["findings"] is not None
    assert combo("doctor", made / "nothing") == BAD_INPUT
