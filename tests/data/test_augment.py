"""Augmentation: what is drawn, what moves together, and colours against the standard library's."""

import colorsys
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from combo_avs.data.augment import (
    PUBLISHED_SCALES,
    AugmentConfig,
    Draw,
    Geometry,
    Jitter,
    apply,
    apply_jitter,
    augment,
    draw,
    draw_geometry,
    draw_jitter,
)
from combo_avs.data.resize import fit_crop, fit_squash, resize, resize_window

OFF = AugmentConfig(scale=(), flip=0, colour=False)


def random_clip(seed: int = 0, size: tuple[int, int] = (32, 40)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames, maskiges = rng.integers(0, 256, (2, 5, *size, 3), dtype=np.uint8)
    return frames, maskiges, rng.integers(0, 3, (5, *size), dtype=np.uint8)


def only(**settings: object) -> AugmentConfig:
    return OFF.model_copy(update=settings)


def test_published_sizes_at_224_pixels() -> None:
    drawn = {
        draw_geometry(only(scale=(factor,)), (224, 224), np.random.default_rng(0)).resized
        for factor in PUBLISHED_SCALES
    }
    sizes = (112, 134, 156, 179, 201, 224, 246, 268, 291, 313, 336, 358, 380, 403, 425, 448)
    assert drawn == {(n, n) for n in sizes}


@given(seed=st.integers(0, 10_000), height=st.integers(1, 300), width=st.integers(1, 300))
def test_windows_lie_inside_and_are_as_large_as_can_be(seed: int, height: int, width: int) -> None:
    geometry = draw_geometry(AugmentConfig(), (height, width), np.random.default_rng(seed))
    (new_height, new_width), (top, left, h, w) = geometry.resized, geometry.crop
    assert (h, w) == (min(height, new_height), min(width, new_width))
    assert 0 <= top <= new_height - h
    assert 0 <= left <= new_width - w


def test_every_scale_and_both_directions_occur() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_geometry(AugmentConfig(), (224, 224), rng) for _ in range(500)]
    assert len({g.resized for g in drawn}) == 16
    assert 0.4 < np.mean([g.flip for g in drawn]) < 0.6
    offsets = {g.crop[0] for g in drawn if g.resized == (448, 448)}
    assert min(offsets) < 40
    assert max(offsets) > 184


def test_every_offset_of_the_window_is_drawn_as_often() -> None:
    rng, offsets = np.random.default_rng(0), Counter()
    for _ in range(1200):
        geometry = draw_geometry(only(scale=(1.2,)), (10, 15), rng)
        assert geometry.resized == (12, 18)
        offsets[geometry.crop[:2]] += 1
    assert set(offsets) == {(top, left) for top in range(3) for left in range(4)}
    assert 60 < min(offsets.values()) <= max(offsets.values()) < 150


def test_the_short_side_is_scaled_and_truncated_and_the_long_side_rounded() -> None:
    def resized(factor: float, height: int, width: int) -> tuple[int, int]:
        return draw_geometry(only(scale=(factor,)), (height, width), np.random.default_rng(0)).resized

    assert resized(0.7, 90, 160) == (63, 112)
    assert resized(0.5, 45, 80) == (22, 39)  # 22.5 is truncated; 80 * 22 / 45 = 39.1
    assert resized(0.5, 80, 47) == (39, 23)  # 80 * 23 / 47 = 39.1
    assert resized(0.9, 47, 80) == (42, 71)  # 80 * 42 / 47 = 71.5 less a little: rounded to the nearest
    assert resized(0.5, 30, 31) == (15, 16)  # a half is rounded up
    assert resized(0.5, 1, 1) == (1, 1)


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(shared_colour=True), AugmentConfig(flip=0.2), OFF])
def test_what_is_drawn_in_which_order(config: AugmentConfig) -> None:
    """Scale, top, left, flip; then brightness, contrast, saturation, hue and order, for frames before Maskiges."""
    for seed in range(30):
        drawn, rng = draw(config, 2, (60, 90), np.random.default_rng(seed)), np.random.default_rng(seed)
        height, width = 60, 90
        if config.scale:
            short = int(round(60 * config.scale[int(rng.integers(len(config.scale)))], 6))
            height, width = short, int(90 * short / 60 + 0.5)
        top, left = int(rng.integers(max(height - 60, 0) + 1)), int(rng.integers(max(width - 90, 0) + 1))
        crop = (top, left, min(height, 60), min(width, 90))
        assert drawn.geometry == Geometry((height, width), crop, flip=bool(rng.random() < config.flip))

        def jitter(rng: np.random.Generator = rng) -> Jitter:
            brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else None
            contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
            saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
            hue = int(rng.integers(-18, 19)) if rng.random() < 0.5 else None
            return Jitter(brightness, contrast, saturation, hue, bool(rng.random() < 0.5))

        if not config.colour:
            assert drawn.frames == drawn.maskiges == ()
        elif config.shared_colour:
            assert {*drawn.frames, *drawn.maskiges} == {jitter()}
        else:
            assert [*drawn.frames, *drawn.maskiges] == [jitter() for _ in range(4)]


def test_defaults_are_the_published_ones() -> None:
    scale = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0)
    assert AugmentConfig() == AugmentConfig(scale=scale, flip=0.5, colour=True, shared_colour=False)


def test_each_image_takes_its_own_jitter_before_it_is_flipped() -> None:
    rng = np.random.default_rng(0)
    frames, maskiges = rng.integers(0, 256, (2, 2, 8, 10, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, (2, 8, 10), dtype=np.uint8)
    jitters = [draw_jitter(np.random.default_rng(seed)) for seed in (3, 4, 5, 6)]
    drawn = Draw(Geometry((12, 15), (2, 3, 8, 10), flip=True), tuple(jitters[:2]), tuple(jitters[2:]))
    found = apply(drawn, frames, maskiges, labels)
    for images, seen, own in ((frames, found[0], jitters[:2]), (maskiges, found[1], jitters[2:])):
        for image, one, jitter in zip(images, seen, own, strict=True):
            window = resize(image, (12, 15), nearest=False)[2:10, 3:13]
            np.testing.assert_array_equal(one, apply_jitter(window, jitter)[:, ::-1])
    for image, one in zip(labels, found[2], strict=True):
        np.testing.assert_array_equal(one, resize(image, (12, 15), nearest=True)[2:10, 3:13][:, ::-1])


def test_jitters_occur_by_halves_and_in_range() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_jitter(rng) for _ in range(2000)]
    for field, low, high in [("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5)]:
        values = [v for v in (getattr(j, field) for j in drawn) if v is not None]
        assert 0.45 < len(values) / 2000 < 0.55
        assert low <= min(values) < low + (high - low) / 50
        assert high - (high - low) / 50 < max(values) <= high
    assert {j.hue for j in drawn} == {None, *range(-18, 19)}
    assert 0.45 < np.mean([j.contrast_first for j in drawn]) < 0.55


def test_everything_off_is_the_identity_and_gives_new_arrays() -> None:
    clip = random_clip()
    for before, after in zip(clip, augment(*clip, OFF, np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(after, before)
        assert not np.shares_memory(after, before)


def test_same_state_gives_the_same_clip_and_leaves_the_input_alone() -> None:
    clip = random_clip()
    kept = [a.copy() for a in clip]
    one, two, other = (augment(*clip, AugmentConfig(), np.random.default_rng(s)) for s in (3, 3, 4))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.flags.c_contiguous
    assert (one[0] != other[0]).any()
    for a, b in zip(clip, kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_maskiges_change_nothing_about_frames_and_labels() -> None:
    frames, maskiges, labels = random_clip()
    with_maskiges = augment(frames, maskiges, labels, AugmentConfig(), np.random.default_rng(5))
    without = augment(frames, np.zeros_like(maskiges), labels, AugmentConfig(), np.random.default_rng(5))
    np.testing.assert_array_equal(with_maskiges[0], without[0])
    np.testing.assert_array_equal(with_maskiges[2], without[2])


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_flipping_twice_is_the_identity(seed: int) -> None:
    clip, rng = random_clip(seed, (6, 9)), np.random.default_rng(seed)
    once = augment(*clip, only(flip=1), rng)
    np.testing.assert_array_equal(once[2], clip[2][:, :, ::-1])
    for before, after in zip(clip, augment(*once, only(flip=1), rng), strict=True):
        np.testing.assert_array_equal(after, before)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from(PUBLISHED_SCALES))
@settings(deadline=None, max_examples=30)
def test_frames_maskiges_and_labels_move_together(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    labels = 9 * np.repeat(np.repeat(rng.integers(0, 2, (1, 4, 4), dtype=np.uint8), 8, 1), 8, 2).repeat(3, 0)
    frames = np.repeat(labels[..., None] * 20, 3, axis=-1)
    seen, maskiges, moved = augment(frames, frames, labels, only(scale=(scale,), flip=0.5), rng)
    np.testing.assert_array_equal(seen, maskiges)
    assert (moved == moved[0]).all()
    assert set(np.unique(moved)) <= {0, 9, 255}  # labels are never blended
    padding = moved == 255
    assert (seen[padding] == 128).all()
    assert padding.any() == (scale < 1)
    agree = (seen[..., 0] > 90) == (moved == 9)
    assert agree[~padding].mean() > 0.9  # they part at blended borders only


def test_padding_lies_right_and_below_and_keeps_its_colour() -> None:
    frames, maskiges, labels = random_clip(size=(20, 20))
    jitter = (Jitter(brightness=30.0),) * 5
    drawn = Draw(Geometry((10, 10), (0, 0, 10, 10), flip=True), jitter, jitter)
    for image, fill in zip(apply(drawn, frames, maskiges, labels), (128, 128, 255), strict=True):
        assert (image[:, 10:] == fill).all()
        assert (image[:, :, 10:] == fill).all()
        assert (image[:, :10, :10] != fill).any()


@pytest.mark.parametrize("size", [(20, 12), (12, 20)])
def test_padding_of_one_side_alone(size: tuple[int, int]) -> None:
    drawn, (height, width) = Draw(Geometry(size, (0, 0, *size), flip=False), (), ()), size
    for image, fill in zip(apply(drawn, *random_clip(size=(20, 20))), (128, 128, 255), strict=True):
        assert (image[:, height:] == fill).all()
        assert (image[:, :, width:] == fill).all()


def test_colours_are_drawn_for_each_image_unless_shared() -> None:
    same = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8), (5, 8, 8, 3))
    labels = np.zeros((5, 8, 8), np.uint8)
    own = augment(same, same, labels, only(colour=True), np.random.default_rng(1))
    assert len({image.tobytes() for image in (*own[0], *own[1])}) > 5
    shared = augment(same, same, labels, only(colour=True, shared_colour=True), np.random.default_rng(1))
    assert len({image.tobytes() for image in (*shared[0], *shared[1])}) == 1
    assert (shared[0] != same).any()
    assert draw(OFF, 5, (8, 8), np.random.default_rng(0)).frames == ()


def test_brightness_and_contrast_truncate_and_clip() -> None:
    image = np.array([[[0, 100, 255], [3, 201, 17]]], np.uint8)
    np.testing.assert_array_equal(apply_jitter(image, Jitter(brightness=-2.5)), [[[0, 97, 252], [0, 198, 14]]])
    np.testing.assert_array_equal(apply_jitter(image, Jitter(contrast=1.5)), [[[0, 150, 255], [4, 255, 25]]])
    both = Jitter(brightness=10.0, contrast=0.5)
    np.testing.assert_array_equal(apply_jitter(image, both), [[[5, 55, 127], [6, 105, 13]]])


def test_contrast_goes_before_or_after_saturation() -> None:
    image = np.full((1, 32, 3), (250, 100, 30), np.uint8)
    strong = {"contrast": 1.5, "saturation": 0.5}
    first = apply_jitter(image, Jitter(**strong, contrast_first=True))
    last = apply_jitter(image, Jitter(**strong, contrast_first=False))
    assert first[0, 0, 0] == last[0, 0, 0] == 255
    assert first[0, 0, 1] > 150 + 40  # clipped red no longer pulls green as far away
    assert (first != last).any()


def test_saturation_and_hue_agree_with_the_standard_library() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    jittered = apply_jitter(rgb, Jitter(saturation=0.5, hue=15))
    for pixel, ours in zip(rgb.reshape(-1, 3), jittered.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue + 30 / 360, saturation / 2, value))
        assert np.abs(ours - expected).max() < 6  # hue in steps of two degrees, rounded there and back twice


def test_wrong_arrays_are_named() -> None:
    frames, maskiges, labels = random_clip()
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"frames must be \[T, H, W, 3\]"):
        augment(labels, maskiges, labels, OFF, rng)
    with pytest.raises(ValueError, match=r"frames must be uint8 .* not float32"):
        augment(frames.astype(np.float32), maskiges, labels, OFF, rng)
    with pytest.raises(ValueError, match="Maskiges must be uint8"):
        augment(frames, maskiges[:4], labels, OFF, rng)
    with pytest.raises(ValueError, match="labels must be uint8"):
        augment(frames, maskiges, labels.astype(int), OFF, rng)
    with pytest.raises(ValueError, match="greater than 0"):
        AugmentConfig(scale=(0.0,))
    with pytest.raises(ValueError, match="zoom"):
        AugmentConfig(zoom=2)


@pytest.mark.parametrize("size", [(30, 50), (50, 30), (31, 31)])
def test_fitting_to_a_square(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, size, dtype=np.uint8)
    assert fit_squash(rng.integers(0, 256, (*size, 3), dtype=np.uint8), 16, nearest=False).shape == (
        16,
        16,
        3,
    )
    short = min(size)
    top, left = (size[0] - short) // 2, (size[1] - short) // 2
    centre = labels[top : top + short, left : left + short]
    np.testing.assert_array_equal(fit_crop(labels, short, nearest=True), centre)
    cropped = fit_crop(labels, 8, nearest=True)
    assert cropped.shape == (8, 8)
    assert cropped.flags.writeable
    with pytest.raises(ValueError, match="uint8"):
        fit_squash(labels.astype(int), 8, nearest=True)


@given(
    source=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    ends=st.tuples(*[st.floats(0, 1)] * 4),
    nearest=st.booleans(),
)
@example(source=(31, 31), size=(39, 47), ends=(0.0, 0.0, 1.0, 1.0), nearest=False)  # a centre just below a half
@settings(deadline=None, max_examples=100)
def test_resizing_a_window_is_resizing_all_and_cutting_it_out(source, size, ends, nearest) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    (height, width), (a, b, c, d) = size, ends
    top, left = int(a * (height - 1)), int(b * (width - 1))
    window = (top, left, 1 + int(c * (height - top - 1)), 1 + int(d * (width - left - 1)))
    expected = resize(image, size, nearest=nearest)[top : top + window[2], left : left + window[3]]
    np.testing.assert_array_equal(resize_window(image, size, window, nearest=nearest), expected)


@pytest.mark.parametrize("factor", PUBLISHED_SCALES)
def test_published_scales_are_resized_as_by_pillow(factor) -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    size = draw_geometry(only(scale=(factor,)), (224, 224), np.random.default_rng(0)).resized
    np.testing.assert_array_equal(
        resize_window(image, size, (0, 0, *size), nearest=False), resize(image, size, nearest=False)
    )
