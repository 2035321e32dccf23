"""Published Maskige pictures: where they lie, how their colours are read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from combo_avs.data.clip import Clip
from combo_avs.data.masks import colour_index
from combo_avs.data.palette import PALETTE
from combo_avs.data.resize import fit_crop, fit_squash
from combo_avs.data.sources.maskige_tree import MaskigeTree, read_maskige
from combo_avs.errors import BadInput, ComboError

SIZE = (8, 8)


def clip(id_: str, subset: str, split: str = "train", objects: tuple[str, ...] = ("dog_barking",)) -> Clip:
    n = 10 if subset == "v2" else 5
    return Clip(id_, subset, split, objects, tuple(range(n)), (True,) * n, (True,) * n, id_)


def index_map(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def write_palette(path: Path, index: np.ndarray, palette: np.ndarray = PALETTE[:150]) -> None:
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


S4 = "AVSBench_object/Single-source/s4_data/pre_SAM_mask"
MS3 = "AVSBench_object/Multi-sources/ms3_data/pre_SAM_mask"
AVSS = "AVSBench_semantic/pre_SAM_mask/AVSBench_semantic"
TREES = {  # by subset: clips, and the pictures of each as published
    "s4": {
        clip("-aaaaaaaaaa", "s4"): [f"{S4}/train/dog_barking/-aaaaaaaaaa/-aaaaaaaaaa_{k}" for k in range(1, 6)],
        clip("b", "s4", "val", ("race_car",)): [f"{S4}/val/race_car/b/b_{k}" for k in range(1, 6)],
    },
    "ms3": {clip("_a_3", "ms3", "val", ()): [f"{MS3}/_a_3/_a_3.mp4_{k}" for k in range(1, 6)]},
    "avss": {
        clip("c_3000_8000", "v1s"): [f"{AVSS}/v1s/c_3000_8000/processed_frames/{k}" for k in range(5)],
        clip("d_0", "v1m", "val"): [f"{AVSS}/v1m/d_0/frames/{k}" for k in range(5)],
        clip("e_0_10000", "v2", "test"): [f"{AVSS}/v2/e_0_10000/frames/{k}" for k in range(10)],
    },
}


def write_tree(root: Path, subset: str, size: tuple[int, int] = SIZE) -> dict[Clip, list[Path]]:
    files = {c: [root / f"{name}_mask_color.png" for name in names] for c, names in TREES[subset].items()}
    for c, paths in files.items():
        for k, path in enumerate(paths):
            write_palette(path, index_map(k + 10 * len(c.id), size))
    return files


class TestColours:
    def test_every_index_has_its_colour(self, tmp_path: Path) -> None:
        index = np.arange(256, dtype=np.uint8).reshape(16, 16)
        write_palette(tmp_path / "a.png", index)
        assert np.array_equal(read_maskige(tmp_path / "a.png"), PALETTE[index])

    @pytest.mark.parametrize("rest", [0, 77])
    def test_what_the_file_says_of_indices_that_ade20k_does_not_name_is_not_believed(self, tmp_path, rest) -> None:
        palette = PALETTE.copy()
        palette[150:] = rest
        index = np.array([[0, 149, 150, 255]], np.uint8)
        write_palette(tmp_path / "a.png", index, palette)
        assert np.array_equal(read_maskige(tmp_path / "a.png"), PALETTE[index])

    def test_few_colours_in_few_bits(self, tmp_path: Path) -> None:
        """Programs that shrink PNG files cut the palette and use fewer bits per pixel."""
        index = np.array([[0, 1, 2, 3]], np.uint8)
        image = Image.fromarray(index)
        image.putpalette(PALETTE[:4].tobytes())
        image.save(tmp_path / "a.png", bits=2)
        assert np.array_equal(read_maskige(tmp_path / "a.png"), PALETTE[index])

    def test_rgb_is_taken_as_it_is(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert np.array_equal(read_maskige(tmp_path / "a.png"), pixels)

    def test_another_palette(self, tmp_path: Path) -> None:
        write_palette(tmp_path / "a.png", index_map(0), PALETTE[:150][::-1].copy())
        with pytest.raises(ValueError, match=r"a\.png.*ADE20K"):
            read_maskige(tmp_path / "a.png")

    @pytest.mark.parametrize("mode", ["L", "RGBA", "1", "LA"])
    def test_other_modes(self, tmp_path: Path, mode: str) -> None:
        Image.new(mode, (8, 8)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=rf"a\.png: image mode {mode}"):
            read_maskige(tmp_path / "a.png")


class TestTrees:
    @pytest.mark.parametrize("subset", TREES)
    def test_maskiges_of_every_clip(self, tmp_path: Path, subset: str) -> None:
        files = write_tree(tmp_path, subset)
        tree = MaskigeTree(tmp_path, files, SIZE)
        for c, paths in files.items():
            expected = [colour_index(np.asarray(Image.open(path))) for path in paths]
            assert np.array_equal(tree.read(c), np.stack(expected))

    @pytest.mark.parametrize("subset", TREES)
    def test_any_folder_on_the_way_may_be_named(self, tmp_path: Path, subset: str) -> None:
        files = write_tree(tmp_path, subset)
        folder = MaskigeTree(tmp_path, files, SIZE).folder
        hashes = set()
        while folder != tmp_path.parent:
            hashes.add(MaskigeTree(folder, files, SIZE).sha256)
            folder = folder.parent
        assert len(hashes) == 1

    def test_avss_is_cropped_for_training_and_squashed_for_scoring(self, tmp_path: Path) -> None:
        files = write_tree(tmp_path, "avss", (18, 33))
        tree = MaskigeTree(tmp_path, files, SIZE)
        for c, paths in files.items():
            fit = fit_crop if c.split == "train" else fit_squash
            whole = [read_maskige(path) for path in paths]
            assert np.array_equal(tree.read(c), np.stack([fit(w, SIZE[0], nearest=True) for w in whole]))
            assert set(map(tuple, tree.read(c).reshape(-1, 3))) <= set(map(tuple, PALETTE))

    def test_the_digest_is_of_the_pictures(self, tmp_path: Path) -> None:
        files = write_tree(tmp_path, "ms3")
        before = MaskigeTree(tmp_path, files, SIZE).sha256
        path = next(iter(files.values()))[2]
        index = np.array(Image.open(path))
        index[3, 3] ^= 1
        write_palette(path, index)
        assert MaskigeTree(tmp_path, files, SIZE).sha256 != before


class TestRefusals:
    def test_every_clip_that_lacks_a_picture_is_listed(self, tmp_path: Path) -> None:
        files = write_tree(tmp_path, "s4")
        first, second = files.values()
        first[4].unlink()
        second[1].unlink()
        second[3].unlink()
        with pytest.raises(BadInput) as error:
            MaskigeTree(tmp_path, files, SIZE)
        assert f"{first[4]} is missing" in str(error.value)
        assert f"{second[1]} is missing, and 1 more" in str(error.value)
        assert "Nothing was imported" in str(error.value)

    @pytest.mark.parametrize("subset", ["s4", "ms3"])
    def test_wrong_size(self, tmp_path: Path, subset: str) -> None:
        files = write_tree(tmp_path, subset, (8, 9))
        with pytest.raises(BadInput, match=r"_1_mask_color\.png is 8 x 9 \(height x width\); expected 8 x 8"):
            MaskigeTree(tmp_path, files, SIZE)

    def test_unfit_files_are_all_named(self, tmp_path: Path) -> None:
        files = write_tree(tmp_path, "ms3")
        paths = next(iter(files.values()))
        Image.new("RGBA", (8, 8)).save(paths[1])
        paths[2].write_bytes(paths[2].read_bytes()[:-20])
        Image.new("RGB", (8, 8)).save(paths[3], format="JPEG")
        paths[4].write_bytes(b"")
        with pytest.raises(BadInput) as error:
            MaskigeTree(tmp_path, files, SIZE)
        for path, what in zip(paths[1:], ("image mode RGBA", "cut short", "not a PNG", "cut short"), strict=True):
            line = next(line for line in str(error.value).splitlines() if str(path) in line)
            assert what in line

    def test_no_tree_there(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput) as error:
            MaskigeTree(tmp_path, TREES["s4"], SIZE)
        assert str(tmp_path / S4 / "train/dog_barking/-aaaaaaaaaa/-aaaaaaaaaa_1_mask_color.png") in str(error.value)

    def test_frames_of_the_data_set_are_not_taken_for_maskiges(self, tmp_path: Path) -> None:
        frames = tmp_path / "AVSBench_semantic/v2/e_0_10000/frames"
        frames.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(frames / "0.jpg")
        with pytest.raises(BadInput, match="no Maskiges of these clips"):
            MaskigeTree(tmp_path, TREES["avss"], SIZE)

    def test_clips_of_videos(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="clips are of video"):
            MaskigeTree(tmp_path, [clip("mine", "video")], SIZE)

    @pytest.mark.parametrize(
        "odd", [clip("../../secret", "ms3"), clip("a", "s4", objects=("../..",)), clip("a", "s4", split="..")]
    )
    def test_no_path_leaves_the_tree(self, tmp_path: Path, odd: Clip) -> None:
        with pytest.raises(BadInput, match="not a plain file name"):
            MaskigeTree(tmp_path, [odd], SIZE)

    def test_a_picture_that_changes_after_the_check(self, tmp_path: Path) -> None:
        files = write_tree(tmp_path, "ms3")
        tree = MaskigeTree(tmp_path, files, SIZE)
        (c, paths), *_ = files.items()
        write_palette(paths[0], index_map(99))
        with pytest.raises(ComboError, match=r"_1_mask_color\.png has changed"):
            tree.read(c)
