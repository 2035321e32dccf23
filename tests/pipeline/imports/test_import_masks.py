"""Masks of other programs: every format gives the same cache, and nothing hostile gets in."""

import contextlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fakes import NoiseSource
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from combo_avs.data.masks import unpack_stats
from combo_avs.data.sources.mask_files import decode_rle, read_masks
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.caches.inspect import root_info, verify_root
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.imports.masks import import_masks

SIZE = (64, 64)


def halves() -> np.ndarray:
    masks = np.zeros((2, *SIZE), bool)
    masks[0, :20], masks[1, 40:, 10:] = True, True
    return masks


def runs(mask: np.ndarray) -> list[int]:
    """COCO's runs of a mask, counted one by one."""
    counts, value, length = [], False, 0
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            counts.append(length)
            value, length = pixel, 0
        length += 1
    return [*counts, length]


def text(counts: list[int]) -> str:
    """COCO's text of runs."""
    out = []
    for k, count in enumerate(counts):
        x, more = count - (counts[k - 2] if k > 2 else 0), True
        while more:
            bits = x & 31
            x >>= 5
            more = x != (-1 if bits & 16 else 0)
            out.append(chr(48 + bits + 32 * more))
    return "".join(out)


def write_npz(path: Path, masks: np.ndarray) -> None:
    np.savez_compressed(path.with_suffix(".npz"), masks=masks)


def write_npy(path: Path, masks: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), masks.astype(np.uint8))


def write_json(path: Path, masks: np.ndarray) -> None:
    counts = [runs(m) for m in masks]
    records = [
        {"segmentation": {"size": list(SIZE), "counts": text(c) if k else c}, "predicted_iou": 1, "stability_score": 1}
        for k, c in enumerate(counts)
    ]
    path.with_suffix(".json").write_text(json.dumps(records))


def write_png(path: Path, masks: np.ndarray) -> None:
    labels = np.zeros(SIZE, np.uint16)
    for k, mask in enumerate(masks):
        labels[mask] = 1000 * k + 1
    Image.fromarray(labels).save(path.with_suffix(".png"))


def fill(root: Path, folder: Path, write) -> None:
    for clip in ClipStore(root).table:
        (folder / clip.id).mkdir(parents=True)
        for frame in range(clip.num_frames):
            write(folder / clip.id / f"{frame:05d}", halves())


@pytest.mark.parametrize("write", [write_npz, write_npy, write_json, write_png])
def test_every_format(root: Path, tmp_path: Path, write) -> None:
    fill(root, tmp_path / "masks", write)
    report = import_masks(root, tmp_path / "masks", "mine")
    cache = report.cache
    assert cache.name.startswith("mine-")
    assert report.missing == 0
    assert np.array_equal(cache.read_masks(7, 8)[0], halves())
    stats = unpack_stats(cache.read_bytes("mask_stats", 7, 8)[0])
    assert stats["area"].tolist() == [20 * 64, 24 * 54]
    assert stats["box"].tolist() == [[0, 0, 63, 19], [10, 40, 63, 63]]
    assert stats["point"].tolist() == [[0, 0], [10, 40]]
    assert verify_root(root) == []
    assert import_masks(root, tmp_path / "masks", "mine").cache.name == cache.name


def test_other_masks_make_another_cache(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "masks", write_npz)
    one = import_masks(root, tmp_path / "masks", "mine").cache.name
    np.savez(next((tmp_path / "masks").rglob("00002.npz")), masks=np.zeros((0, *SIZE), bool))
    assert import_masks(root, tmp_path / "masks", "mine").cache.name != one


@given(arrays(bool, (7, 5)))
def test_run_lengths(mask: np.ndarray) -> None:
    counts = runs(mask)
    assert np.array_equal(decode_rle(counts, (7, 5)), mask)
    assert np.array_equal(decode_rle(text(counts), (7, 5)), mask)


@given(st.text(max_size=40))
def test_any_text_is_a_mask_or_refused(counts: str) -> None:
    with contextlib.suppress(ValueError):
        assert decode_rle(counts, (7, 5)).shape == (7, 5)


def test_missing_frames(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "masks", write_npz)
    lost = ClipStore(root).table[2].id
    (tmp_path / "masks" / lost / "00003.npz").unlink()
    with pytest.raises(BadInput, match=f"clip {lost}: no file for frame 3"):
        import_masks(root, tmp_path / "masks", "mine")
    report = import_masks(root, tmp_path / "masks", "mine", allow_missing=True)
    assert report.missing == 1
    first, _ = ClipStore(root).span(2)
    assert len(report.cache.read_masks(first + 3, first + 4)[0]) == 0
    assert len(report.cache.read_masks(first + 2, first + 3)[0]) == 2


def test_refusals_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(root, tmp_path / "linked", write_npz)
    secret = tmp_path / "secret.npz"
    np.savez(secret, masks=halves())
    link = next((tmp_path / "linked").rglob("00001.npz"))
    link.unlink()
    link.symlink_to(secret)
    for folder, name, message in (
        ("none", "mine", "no such folder"),
        ("empty", "mine", "no file for frame 0"),
        ("linked", "mine", "leads out of"),
        ("linked", "../mine", "--name"),
    ):
        with pytest.raises(BadInput, match=message):
            import_masks(root, tmp_path / folder, name)
    assert not [p for p in (root / "proposals").iterdir() if "mine" in p.name]


def test_a_broken_file_is_named_and_the_rest_goes_on_later(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "masks", write_npz)
    broken = tmp_path / "masks" / ClipStore(root).table[len(ClipStore(root).table) - 1].id / "00001.npz"
    broken.write_bytes(broken.read_bytes()[:80])
    with pytest.raises(ComboError, match=r"00001\.npz"):
        import_masks(root, tmp_path / "masks", "mine")


class TestHostileFiles:
    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            read_masks(path, SIZE)
        assert str(path) in str(error.value)

    def test_pickles(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
        self.refused(tmp_path / "a.npy", "pickle|Object")

    def test_zip_bomb(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("masks.npy", b"\0" * (200 << 20))
        self.refused(tmp_path / "a.npz", "larger than")

    def test_broken_compression(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", masks=np.random.default_rng(0).random((3, 64, 64)) > 0.5)
        data = bytearray((tmp_path / "a.npz").read_bytes())
        data[100:400] = bytes(300)
        (tmp_path / "a.npz").write_bytes(data)
        self.refused(tmp_path / "a.npz", "a.npz")

    def test_other_sizes(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros((2, 32, 64), bool))
        self.refused(tmp_path / "a.npy", "must be bool or integer")
        Image.new("L", (64, 32)).save(tmp_path / "a.png")
        self.refused(tmp_path / "a.png", "must be bool or integer")

    def test_too_many(self, tmp_path: Path) -> None:
        Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(SIZE) + 1).save(tmp_path / "a.png")
        assert len(read_masks(tmp_path / "a.png", SIZE).masks) == 4096
        (tmp_path / "a.json").write_text("[" + ",".join(["{}"] * 4097) + "]")
        self.refused(tmp_path / "a.json", "4097 masks")

    def test_decompression_bomb(self, tmp_path: Path) -> None:
        Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
        self.refused(tmp_path / "a.png", "refused|bomb")

    @pytest.mark.parametrize("content", ["{}", "[1]", '[{"segmentation": 3}]', "[" * 100_000, "not json"])
    def test_json_of_others(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "a.json").write_text(content)
        self.refused(tmp_path / "a.json", "json")

    def test_scores_that_do_not_fit(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", masks=halves(), predicted_iou=np.array([0.5]))
        self.refused(tmp_path / "a.npz", "predicted_iou has shape")


def test_means_are_over_the_frames_that_have_masks(tmp_path: Path) -> None:
    """A clip that could not be imported has no masks, and counts for none, as in caches that precompute makes."""
    import_clips(NoiseSource(clips=4, broken=("clip-1",)), tmp_path / "root", shard_frames=20)
    clips = ClipStore(tmp_path / "root")
    for clip in clips.table:
        (tmp_path / "masks" / clip.id).mkdir(parents=True)
        for frame in range(clip.num_frames):
            write_npz(tmp_path / "masks" / clip.id / f"{frame:05d}", np.ones((3, *clips.size), bool))
    cache = import_masks(tmp_path / "root", tmp_path / "masks", "mine").cache
    assert [r.counts for r in cache.receipts().values()] == [{"frames": 10, "masks": 30}] * 2
    (info,) = root_info(tmp_path / "root")["caches"]
    assert info["masks_per_frame"] == 3
    assert info["quarantined"] == {"clip-1": "quarantined at import"}
    assert info["coverage"] == dict.fromkeys(("train", "val", "test"), 1.0)
