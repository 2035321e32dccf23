"""Maskiges against those that the published code wrote."""

import io

import numpy as np
import pytest
from golden import fixtures, load_arrays, load_json
from PIL import Image

from combo_avs.data.masks import ascending_areas, colour_index, fold_masks, paint
from combo_avs.data.palette import PALETTE

# Of equal areas, the published code's order depends on the NumPy build: those cases need not agree.
CASES = [
    (name, case)
    for name in fixtures("combo", "maskige.npz")
    for case, entry in load_json("combo", name)["cases"].items()
    if entry.get("official_equals_stable_ascending_sort")
]


def cases_with(prefix: str) -> list[tuple[str, str]]:
    names = fixtures("combo", "maskige.npz")
    return [(n, key.removeprefix(prefix)) for n in names for key in load_arrays("combo", n) if key.startswith(prefix)]


def stack(name: str, case: str) -> np.ndarray:
    shape = load_json("combo", name)["cases"][case]["shape"]
    bits = np.unpackbits(load_arrays("combo", name)[f"in.{case}"], count=int(np.prod(shape)))
    return bits.reshape(shape).view(np.bool_)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_index_map(name, case):
    masks = stack(name, case)
    expected = load_arrays("combo", name)[f"out.idx_native.{case}"]
    order = ascending_areas(masks)
    assert np.array_equal(paint(masks, order, (1 + np.argsort(order)) % 256), expected)  # ranks above 255 wrap around
    if len(masks) <= 255:
        assert np.array_equal(fold_masks(masks), expected)


@pytest.mark.parametrize(("name", "case"), cases_with("out.rgb224."))
def test_colours(name, case):
    arrays = load_arrays("combo", name)
    assert np.array_equal(colour_index(arrays[f"out.idx224.{case}"]), arrays[f"out.rgb224.{case}"])


@pytest.mark.parametrize(("name", "case"), cases_with("png."))
def test_published_file(name, case):
    arrays = load_arrays("combo", name)
    with Image.open(io.BytesIO(arrays[f"png.{case}"].tobytes())) as image:
        assert np.array_equal(np.asarray(image), arrays[f"out.idx224.{case}"])
        assert np.array_equal(colour_index(np.asarray(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", fixtures("combo", "ade20k_palette.json"))
def test_palette(name):
    assert PALETTE[:150].tolist() == load_json("combo", name)["palette"]
