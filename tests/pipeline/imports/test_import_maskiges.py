"""Published Maskiges into a proposals cache: what is in it, resuming, what is refused before anything is written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.dataset import ClipDataset
from combo_avs.data.palette import PALETTE
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.root import create_proposals, open_cache
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.caches.inspect import root_info, verify_root
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.imports.maskiges import import_maskiges


def write_tree(folder: Path, clips: ClipStore) -> dict[str, list[Path]]:
    """A published MS3 tree for the clips; frame k of the store has index k in its upper left corner."""
    files = {}
    for row in range(len(clips.table)):
        clip, (first, _) = clips.table[row], clips.span(row)
        home = folder / "ms3_data" / "pre_SAM_mask" / clip.id
        home.mkdir(parents=True)
        files[clip.id] = [home / f"{clip.id}.mp4_{k + 1}_mask_color.png" for k in range(clip.num_frames)]
        for k, path in enumerate(files[clip.id]):
            index = np.full(clips.size, 3, np.uint8)
            index[0, 0] = first + k
            image = Image.fromarray(index)
            image.putpalette(PALETTE[:150].tobytes())
            image.save(path)
    return files


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    write_tree(tmp_path / "Multi-sources", ClipStore(root))
    return tmp_path / "Multi-sources"


def contents(folder: Path) -> dict[str, bytes]:
    kept = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "_lock" and p.parent.name != "_log")
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def proposals(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "proposals").iterdir())


def test_the_command(root: Path, tree: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(app, ["import", "maskiges", str(root), "--source", str(tree)]) == 0
    assert "--proposals official-maskiges-" in capsys.readouterr().out


class TestContents:
    def test_maskiges_and_nothing_else(self, root: Path, tree: Path) -> None:
        report = import_maskiges(root, tree)
        clips = ClipStore(root)
        cache = open_cache(clips, "proposals", "official-maskiges")
        assert cache.name == report.cache.name
        assert cache.name.rsplit("-", 1)[0] == "official-maskiges"
        maskiges = cache.read("maskige", 0, cache.frames)
        assert np.array_equal(maskiges[:, 0, 0], PALETTE[: cache.frames])
        assert (maskiges[:, 1:] == PALETTE[3]).all()
        assert not cache.read("mask_count", 0, cache.frames).any()
        assert cache.read_masks(7, 8)[0].shape == (0, *clips.size)
        assert cache.read_bytes("mask_stats", 7, 8) == [b""]
        assert "mask_count is 0" in str(report)
        assert f"Maskiges of {len(clips.table)} clips" in str(report)

    def test_training_reads_them(self, root: Path, tree: Path) -> None:
        cache = import_maskiges(root, tree).cache
        clips = ClipStore(root)
        dataset = ClipDataset(clips, cache, open_cache(clips, "audio", "logmel"), "val")
        first = clips.span(int(dataset.rows[0]))[0]
        assert np.array_equal(dataset[0].maskiges[:, 0, 0], PALETTE[first : first + 5])
        torch.from_numpy(dataset[0].maskiges)

    def test_verify_and_info(self, root: Path, tree: Path) -> None:
        cache = import_maskiges(root, tree).cache
        assert verify_root(root) == []
        info = next(c for c in root_info(root)["caches"] if c["name"] == cache.name)
        assert info["fresh"]
        assert info["masks_per_frame"] == 0
        assert set(info["maker"]["parameters"]) == {"files_sha256", "resize"}
        assert str(tree) not in str(cache.attributes)

    def test_other_pictures_make_another_cache(self, root: Path, tree: Path) -> None:
        first = import_maskiges(root, tree).cache.name
        path = next(tree.rglob("*.png"))
        Image.new("RGB", ClipStore(root).size).save(path)
        assert import_maskiges(root, tree).cache.name != first

    def test_a_quarantined_clip_needs_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from combo_avs.errors import ClipError

        source = SyntheticSource("ms3", 3, seed=0, size=32)
        bad, read = source.clips[1].id, source.read

        def fails(clip):
            if clip.id == bad:
                raise ClipError("no frames")
            return read(clip)

        monkeypatch.setattr(source, "read", fails)
        root = tmp_path / "root"
        import_clips(source, root, shard_frames=20)
        files = write_tree(tmp_path, ClipStore(root))
        shutil.rmtree(files[bad][0].parent)
        report = import_maskiges(root, tmp_path)
        assert report.quarantined == {bad: "quarantined at import"}
        assert bad in str(report)
        assert report.cache.unfinished() == []


class TestResume:
    def test_only_what_is_missing_is_done_and_the_end_is_equal(self, root: Path, tree: Path, monkeypatch) -> None:
        from combo_avs.pipeline.imports import fill as module

        cache = import_maskiges(root, tree).cache
        before = contents(cache.path)
        (cache.path / "maskige" / "c" / "1" / "0" / "0" / "0").unlink()
        done = []
        write = module.commit_shard
        monkeypatch.setattr(module, "commit_shard", lambda *a, **k: done.append(a[1]) or write(*a, **k))
        import_maskiges(root, tree)
        assert done == [1]
        assert contents(cache.path) == before

    def test_a_broken_picture_stops_the_job_and_the_rest_is_kept(self, root: Path, tree: Path) -> None:
        clips = ClipStore(root)
        _, clip = clips.clips_in(clips.num_shards - 1)[0]
        path = next(tree.rglob(f"{clip.id}.mp4_2_mask_color.png"))
        good = path.read_bytes()
        pixels = good.index(b"IDAT") + 6
        path.write_bytes(good[:pixels] + bytes(8) + good[pixels + 8 :])  # header and end are whole
        with pytest.raises(ComboError, match=path.name) as error:
            import_maskiges(root, tree)
        assert not isinstance(error.value, BadInput)
        (name,) = set(proposals(root)) - {open_cache(clips, "proposals", "felzenszwalb").path.name}
        assert Cache(root / "proposals" / name).unfinished() == [clips.num_shards - 1]

    def test_a_second_run_is_refused(self, root: Path, tree: Path) -> None:
        cache = import_maskiges(root, tree).cache
        create_proposals(ClipStore(root), cache.provenance)
        with lock_store(cache.path), pytest.raises(BadInput, match="writing to it"):
            import_maskiges(root, tree)


class TestRefusals:
    def test_nothing_is_written_when_a_clip_has_none(self, root: Path, tree: Path) -> None:
        before = proposals(root)
        gone = sorted((tree / "ms3_data" / "pre_SAM_mask").iterdir())[::5]
        for folder in gone:
            shutil.rmtree(folder)
        with pytest.raises(BadInput) as error:
            import_maskiges(root, tree)
        for folder in gone:
            assert str(folder) in str(error.value)
        assert proposals(root) == before

    def test_unfinished_clips(self, root: Path, tree: Path) -> None:
        (root / "clips.zarr" / "_done" / "000001.json").unlink()
        with pytest.raises(BadInput, match="combo import"):
            import_maskiges(root, tree)

    def test_no_root(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"clips\.zarr"):
            import_maskiges(tmp_path, tmp_path)
