"""Pictures are resized to the bytes of Pillow 11, whichever Pillow is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from combo_avs.data.resize import fit_crop, fit_squash, resize, resize_window
from combo_avs.model.foundation.resize_maps import pillow_resize
from combo_avs.model.foundation.semantic_sam.frame_size import with_short_edge
from combo_avs.resampling import resize_image

SCRIPT = Path(__file__).parents[1] / "reference" / "pillow11.py"
spec = importlib.util.spec_from_file_location("pillow11", SCRIPT)
assert spec is not None
assert spec.loader is not None
pillow11 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pillow11)
Size = tuple[int, int]
CASES: list[tuple[Size, Size]] = pillow11.CASES


def expected(old: Size, new: Size, filter_name: str, channels: int = 3) -> np.ndarray:
    with np.load(pillow11.FILE) as results:
        return results[pillow11.case_name(old, new, filter_name, channels)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filter_name", pillow11.FILTERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bytes_are_those_of_pillow_11(case: tuple[Size, Size], filter_name: str, channels: int) -> None:
    old, new = case
    image = Image.fromarray(pillow11.picture(old, channels))
    resized = np.asarray(resize_image(image, new, Image.Resampling[filter_name]))
    np.testing.assert_array_equal(resized, expected(old, new, filter_name, channels))


@pytest.mark.parametrize("filter_name", ["BILINEAR", "BICUBIC"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fixture_tells_the_orders_apart(case: tuple[Size, Size], filter_name: str) -> None:
    (old, new), filter_ = case, Image.Resampling[filter_name]
    height_first = (
        Image.fromarray(pillow11.picture(old)).resize((old[1], new[0]), filter_).resize((new[1], new[0]), filter_)
    )
    assert (np.asarray(height_first) != expected(old, new, filter_name)).mean() > 0.01


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_everything_that_resizes_for_the_network_keeps_to_it(case: tuple[Size, Size], nearest: bool) -> None:
    old, new = case
    image, wanted = pillow11.picture(old), expected(old, new, "NEAREST" if nearest else "BILINEAR")
    np.testing.assert_array_equal(resize(image, new, nearest=nearest), wanted)
    np.testing.assert_array_equal(resize_window(image, new, (0, 0, *new), nearest=nearest), wanted)
    if new == (32, 32):
        np.testing.assert_array_equal(fit_squash(image, 32, nearest=nearest), wanted)
    if not nearest:
        planes = pillow_resize(torch.from_numpy(image)[None], new)[0]
        np.testing.assert_array_equal(planes.permute(1, 2, 0).numpy(), wanted)


def test_tall_frames_of_training_are_cut_out_of_those_bytes() -> None:
    cropped = fit_crop(pillow11.picture((97, 33)), 32, nearest=False)
    np.testing.assert_array_equal(cropped, expected((97, 33), (94, 32), "BILINEAR")[31 : 31 + 32])


@pytest.mark.parametrize(
    ("old", "short", "new"), [((97, 33), 32, (94, 32)), ((23, 9), 25, (63, 25)), ((9, 23), 25, (25, 63))]
)
def test_semantic_sam_sees_those_bytes(old: Size, short: int, new: Size) -> None:
    resized = with_short_edge(torch.from_numpy(pillow11.picture(old))[None], short)[0].numpy()
    np.testing.assert_array_equal(resized, expected(old, new, "BICUBIC"))


@pytest.mark.parametrize(
    ("old", "size", "between", "top"),
    [((33, 20), 7, (11, 7), 2), ((29, 20), 7, (10, 7), 2), ((34, 20), 7, (11, 7), 2), ((35, 20), 7, (12, 7), 2)],
)
@pytest.mark.parametrize("nearest", [False, True])
def test_long_sides_are_truncated_and_cut_half_to_even(
    old: Size, size: int, between: Size, top: int, nearest: bool
) -> None:
    """11.55 becomes 11; an offset of 1.5 becomes 2, and so does 2.5. The same for wide pictures."""
    image = pillow11.picture(old)
    found = fit_crop(image, size, nearest=nearest)
    np.testing.assert_array_equal(found, resize(image, between, nearest=nearest)[top : top + size])
    wide = np.ascontiguousarray(image.transpose(1, 0, 2))
    found = fit_crop(wide, size, nearest=nearest)
    np.testing.assert_array_equal(found, resize(wide, between[::-1], nearest=nearest)[:, top : top + size])
