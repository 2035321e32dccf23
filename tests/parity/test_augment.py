"""Augmentation and resizing against what the published training pipeline gave: equal to the last bit."""

import numpy as np
import pytest
from golden import fixtures, load_arrays, load_json

from combo_avs.data.augment import AugmentConfig, Draw, Geometry, Jitter, apply, apply_jitter, augment
from combo_avs.data.palette import PALETTE
from combo_avs.data.resize import fit_crop, fit_squash


@pytest.mark.parametrize("name", fixtures("combo", "color_aug.npz"))
def test_colour_jitter(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    for case, expected in zip(spec["cases"], arrays["out.images"], strict=True):
        jitter = Jitter(case.get("br"), case.get("co"), case.get("sa"), case.get("hu"), bool(case["order"]))
        np.testing.assert_array_equal(apply_jitter(arrays["in.image"], jitter), expected)


def recorded_geometry(transforms: list[dict], size: tuple[int, int]) -> Geometry:
    by_type = {t["type"]: t for t in transforms}
    resize, crop = by_type.get("ResizeTransform"), by_type.get("CropTransform")
    resized = (resize["new_h"], resize["new_w"]) if resize else size
    window = (crop["y0"], crop["x0"], crop["h"], crop["w"]) if crop else (0, 0, *resized)
    return Geometry(resized, window, "HFlipTransform" in by_type)


def clip(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arrays = load_arrays("combo", name)
    labels = arrays["in.gt"]
    if not load_json("combo", name)["cls"].startswith("AVSS_"):
        labels = labels // 255
    return arrays["in.images"], PALETTE[arrays["in.maskige_index"]], labels


def check(name: str, variant: int, ours: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    arrays = load_arrays("combo", name)
    frames, maskiges, labels = ours
    np.testing.assert_array_equal(frames.transpose(0, 3, 1, 2), arrays[f"out.{variant}.images"])
    np.testing.assert_array_equal(maskiges.transpose(0, 3, 1, 2), arrays[f"out.{variant}.pre_masks"])
    expected = arrays[f"out.{variant}.sem_segs"][:, 0]
    np.testing.assert_array_equal(labels[: len(expected)], expected)


@pytest.mark.parametrize("name", fixtures("combo", "mapper_*_train.npz"))
def test_recorded_geometry(name: str) -> None:
    for variant, recorded in enumerate(load_json("combo", name)["variants"]):
        frames, maskiges, labels = clip(name)
        drawn = Draw(recorded_geometry(recorded["transforms"], labels.shape[1:]), (), ())
        check(name, variant, apply(drawn, frames, maskiges, labels))


@pytest.mark.parametrize("name", fixtures("combo", "mapper_*_eval.npz"))
def test_evaluation_changes_nothing(name: str) -> None:
    off = AugmentConfig(scale=(), flip=0, colour=False)
    for variant in range(len(load_json("combo", name)["variants"])):
        check(name, variant, augment(*clip(name), off, np.random.default_rng(0)))


@pytest.mark.parametrize("name", fixtures("combo", "avss_fixsize.npz"))
@pytest.mark.parametrize(("split", "fit"), [("train", fit_crop), ("eval", fit_squash)])
def test_fixed_size(name: str, split: str, fit) -> None:
    arrays, size = load_arrays("combo", name), load_json("combo", name)["size"]
    np.testing.assert_array_equal(fit(arrays["in.image"], size, nearest=False), arrays[f"out.{split}.image"])
    np.testing.assert_array_equal(fit(arrays["in.label"], size, nearest=True), arrays[f"out.{split}.label"])
