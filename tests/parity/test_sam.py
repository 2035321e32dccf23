"""SAM and MobileSAM with weights made by rule: from the frame to the final masks, against the published code."""

import functools
import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from published_sam import PUBLISHED, fixture_frame, rule_file, set_phase, uniform
from segment_anything import sam_model_registry

from combo_avs.model.foundation import generator
from combo_avs.model.foundation.everything import Everything, EverythingConfig, point_grid
from combo_avs.model.foundation.interface import Predicted, Proposals
from combo_avs.model.foundation.mask_candidates import mask_boxes, stability_scores
from combo_avs.model.foundation.mobile_sam import mobile_sam, our_keys
from combo_avs.model.foundation.resize_maps import encoder_size, logit_maps, pillow_resize, resize_logits

NAMES = {"mobile": "mobile-sam", "vitb": "sam-vit-b"}
QUICK = "mobile_amg_A"  # the one whole result that is part of every run


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def runs(names: list[str], quick: str = "mobile_*") -> list:
    """Fixtures; those of the large network, and what `quick` does not match, take a while."""
    return [n if Path(n).match(quick) else pytest.param(n, marks=pytest.mark.slow) for n in names]


@functools.cache
def trained(network: str) -> Everything:
    """The generator with published defaults, through a checkpoint file as published."""
    with tempfile.TemporaryDirectory() as folder:
        return generator(NAMES[network], {"weights": str(rule_file(network, Path(folder)))})


@functools.cache
def features(network: str, frame: str) -> torch.Tensor:
    return next(trained(network).network.encode(fixture_frame(frame)))


def parts(name: str) -> tuple[str, str]:
    network, _, frame = name.split("_")
    return network, frame


@pytest.mark.parametrize("name", fixtures("sam", "*_encoder_*.npz"))
def test_resized_frame_is_bit_equal(name):
    expected = load_arrays("sam", name)
    frame = fixture_frame(parts(name)[1])
    resized = pillow_resize(frame, encoder_size(*frame.shape[1:3]))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(resized[::32, ::32], expected["resized_sample"])
    assert zlib.crc32(resized.tobytes()) == expected["resized_crc32"]


@pytest.mark.parametrize("name", runs(fixtures("sam", "*_encoder_*.npz")))
def test_encoder(name):
    expected = load_arrays("sam", name)
    ours = features(*parts(name)).numpy()
    assert np.abs(ours[:, 3::8, 5::8] - expected["sample"]).max() < 2e-5
    assert np.abs(ours[:, [0, 0, -1, -1], [0, -1, 0, -1]] - expected["corner"]).max() < 2e-5
    assert np.abs(ours.mean((1, 2)) - expected["mean"]).max() < 1e-5
    assert np.abs(ours.std((1, 2), ddof=1) - expected["std"]).max() < 1e-5
    probe = uniform("probe", (8, ours.size), set_phase()).astype(np.float32).astype(np.float64) @ ours.ravel().astype(
        np.float64
    )
    assert np.abs(probe - expected["probe"]).max() < 5e-3


@pytest.mark.parametrize("name", runs(fixtures("sam", "*_candidates_*.npz")))
def test_prompts_and_positions(name):
    expected = load_arrays("sam", name)
    network = trained(parts(name)[0]).network
    clicks = network.encode_prompts(torch.from_numpy(expected["points8_in_1024"][:, 0]))
    assert np.abs(clicks.tokens_GTC[:, 5:].numpy() - expected["sparse8"]).max() < 1e-6
    positions = network.weights.positions_LC.T.unflatten(1, (64, 64))
    assert np.abs(positions[:, ::16, ::16].numpy() - expected["dense_pe_sample"]).max() < 1e-6


def answers(name: str, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Predicted IoU [G, 3] and low-resolution logits [G, 3, 256, 256] of some points of the grid; the frame's size."""
    network, frame = parts(name)
    height, width = fixture_frame(frame).shape[1:3]
    per_side = round((len(load_arrays("sam", f"{network}_candidates_{frame}")["iou"]) / 3) ** 0.5)
    inner_height, inner_width = encoder_size(height, width)
    net = trained(network).network
    clicks = net.encode_prompts(torch.from_numpy(point_grid(per_side)[indices] * [inner_width, inner_height]))
    decoded = net.decode(clicks, net.prepare_image(clicks, features(network, frame)), slice(0, len(indices)))
    logits = net.render(decoded, torch.arange(len(indices)), 256, 256)
    return decoded.predicted_iou_GK, logits, (height, width)


@pytest.mark.parametrize("name", runs(fixtures("sam", "*_candidates_*.npz")))
def test_candidates(name):
    expected = load_arrays("sam", name)
    points = np.arange(5, len(expected["iou"]) // 3, 29)
    iou, logits, size = answers(name, points)
    masks = (points[:, None] * 3 + np.arange(3)).ravel()
    assert np.abs(iou.flatten().numpy() - expected["iou"][masks]).max() < 1e-5
    drawn = resize_logits(logits.flatten(0, 1), *logit_maps(*size))
    areas = (drawn > 0).sum((1, 2)).numpy()
    pixels_off = np.abs(areas - expected["area"][masks])
    assert pixels_off.max() <= 2  # logits within 0.05 of zero on a scale of 700: the published sign is rounding, too
    assert pixels_off.mean() < 0.2
    same = pixels_off == 0
    assert (mask_boxes(drawn > 0).numpy() != expected["box_xyxy"][masks]).any(1)[same].sum() <= 1
    stability = stability_scores(drawn, 1.0).numpy()
    near = np.abs(stability - expected["stability"][masks]) <= 3 / np.maximum(areas, 1)
    assert (near | np.isnan(stability) & np.isnan(expected["stability"][masks])).all()


@pytest.mark.parametrize("name", runs(fixtures("sam", "*_lowres_*.npz")))
def test_low_resolution_logits(name):
    expected = load_arrays("sam", name)
    _, logits, _ = answers(name, expected["point_index"])
    stride = int(expected.get("stride", 1))
    assert np.abs(logits.numpy()[..., ::stride, ::stride] - expected["low"]).max() < 0.2  # they reach 700


def assert_published(proposals: Proposals, expected: dict[str, np.ndarray], rounded_pixels: int = 0) -> None:
    """The same masks in the same order; neighbours whose predicted IoU is equal up to rounding may change places.

    rounded_pixels: how many pixels, of all masks together, may differ, since their logits are 0 up to rounding.
    """
    masks = np.unpackbits(expected["masks"], axis=1, count=np.prod(expected["shape"][1:]))
    masks = masks.reshape(expected["shape"]).astype(bool)
    assert proposals.masks.shape == masks.shape
    ours = proposals.masks.numpy()
    order = np.arange(len(masks))
    for i in range(len(masks) - 1):
        near = abs(expected["predicted_iou"][i] - expected["predicted_iou"][i + 1]) < 2e-6
        if near and (ours[i] != masks[order[i + 1]]).sum() < (ours[i] != masks[order[i]]).sum():
            order[[i, i + 1]] = order[[i + 1, i]]
    different = (ours != masks[order]).sum((1, 2))
    assert different.sum() <= rounded_pixels
    same = different == 0
    x, y, w, h = expected["bbox_xywh"][order].astype(np.int64).T
    assert np.array_equal(proposals.boxes[same], np.stack([x, y, x + w, y + h], axis=1)[same])
    assert np.array_equal(proposals.areas[same], expected["area"][order][same])
    assert np.array_equal(proposals.points, expected["point_coords"][order].astype(np.float32))
    assert np.abs(proposals.predicted_iou.numpy() - expected["predicted_iou"][order]).max() < 1e-5
    assert np.abs(proposals.stability.numpy() - expected["stability_score"][order]).max() < 1e-3


@pytest.mark.parametrize("name", runs(fixtures("sam", "*_amg_*.npz"), QUICK))
def test_final_masks(name):
    network, frame = parts(name)
    candidates = load_arrays("sam", f"{network}_candidates_{frame}")["iou"]
    default = trained(network)
    config = default.config.model_copy(update={"points_per_side": round((len(candidates) / 3) ** 0.5)})
    (proposals,) = Everything(default.name, default.network, config, None)(fixture_frame(frame))
    assert_published(proposals, load_arrays("sam", name), rounded_pixels=2)  # none on the set that is shipped


class BankNetwork:
    """Answers the j-th click on crop c with entry j + 5 c of the shipped bank, going round."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        bank = load_arrays("sam", "post_bank")
        self.logits, self.iou = torch.from_numpy(bank["logits_q"]) * 0.25, torch.from_numpy(bank["iou"])
        self.crops = 0

    def encode(self, frames: torch.Tensor) -> Iterator[int]:
        yield self.crops
        self.crops += 1

    def encode_prompts(self, points: torch.Tensor) -> None: ...

    def prepare_image(self, clicks: None, crop: int) -> int:
        return crop

    def decode(self, clicks: None, crop: int, chunk: slice) -> Predicted:
        entries = (torch.arange(chunk.start, chunk.stop) + 5 * crop) % len(self.iou)
        return SimpleNamespace(predicted_iou_GK=self.iou[entries] + 0.001 * crop, logits=self.logits[entries])

    def render(self, decoded: Predicted, which: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return decoded.logits[which][..., :rows, :columns]


@pytest.mark.parametrize("name", [n for n in fixtures("sam", "post_*.npz") if n != "post_bank"])
@pytest.mark.parametrize("clicks_per_batch", [1, 5, 100])
def test_from_logits_to_final_masks(name, clicks_per_batch):
    expected = load_arrays("sam", name)
    settings = json.loads(str(expected["settings"]))
    del settings["points_per_batch"]
    config = EverythingConfig(**settings, clicks_per_batch=clicks_per_batch)
    (proposals,) = Everything("bank", BankNetwork(), config, None)(torch.zeros(1, *expected["size"], 3).byte())
    assert_published(proposals, expected)


@pytest.mark.parametrize("name", [n for n in fixtures("sam", "post_*.npz") if n not in ("post_bank", "post_crops")])
def test_stability_of_all_candidates(name):
    expected = load_arrays("sam", name)
    rows, columns = logit_maps(*expected["size"])
    logits = BankNetwork().logits.flatten(0, 1)[:, : rows.shape[1], : columns.shape[1]]
    drawn = resize_logits(logits, rows, columns)
    stability = stability_scores(drawn, 1.0).numpy()  # whatever the settings say
    assert np.allclose(stability, expected["cand_stability"], atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("name", fixtures("sam", "*_params.json"))
def test_every_published_key_has_its_place(name):
    network = next(short for short, published in PUBLISHED.items() if name == f"{published}_params")
    shapes = load_json("sam", name)
    published = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        sam = mobile_sam() if network == "mobile" else sam_model_registry["vit_" + network[-1]]()
    wanted = {key: tuple(value.shape) for key, value in sam.state_dict().items()}
    ours = our_keys(published) if network == "mobile" else published
    assert {key: tuple(value.shape) for key, value in ours.items()} == wanted
    dropped = len(published) - len(ours)
    assert dropped == (4 if network == "mobile" else 0)  # the classifier of ImageNet
