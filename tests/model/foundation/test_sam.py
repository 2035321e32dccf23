"""SAM and MobileSAM as proposal generators: the contract, each fast route against the slow one, and refusals."""

import functools
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contracts import ProposalGeneratorContract, assert_equal_proposals, noise, one_colour, scene
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, Sam

from combo_avs.errors import BadInput
from combo_avs.model.foundation import generator as named_generator
from combo_avs.model.foundation import vit_encoder
from combo_avs.model.foundation.everything import Everything, crop_grid
from combo_avs.model.foundation.mobile_sam import fold_batch_norms, mobile_sam
from combo_avs.model.foundation.products import linear, linear_gelu, matrix_products, product
from combo_avs.model.foundation.resize_maps import encoder_size, logit_maps, pillow_resize, resize_logits
from combo_avs.model.foundation.sam import SamConfig, SamNetwork
from combo_avs.model.weights.frozen import fixed_initialisation

SETTINGS = {"points_per_side": 3, "pred_iou_thresh": 0, "stability_score_thresh": 0.5, "box_nms_thresh": 1.0}


def small_vit(depth: int, global_blocks: tuple[int, ...]) -> ImageEncoderViT:
    """Random, with positions that count. 16 channels."""
    with fixed_initialisation():
        sizes = {"depth": depth, "embed_dim": 16, "num_heads": 2, "window_size": 14, "out_chans": 256}
        encoder = ImageEncoderViT(**sizes, use_rel_pos=True, global_attn_indexes=global_blocks).eval()
        for block in encoder.blocks:
            torch.nn.init.normal_(block.attn.rel_pos_h)
            torch.nn.init.normal_(block.attn.rel_pos_w)
        torch.nn.init.normal_(encoder.pos_embed)
    return encoder.requires_grad_(False)


@functools.cache
def small_sam() -> Sam:
    """SAM's own decoder behind a very small ViT, random, with predictions spread so that thresholds have work to do."""
    with fixed_initialisation():
        whole = mobile_sam()
        sam = Sam(small_vit(1, ()), whole.prompt_encoder, whole.mask_decoder).eval().requires_grad_(False)
        for embedding in (sam.mask_decoder.mask_tokens, sam.mask_decoder.iou_token):
            torch.nn.init.normal_(embedding.weight, std=2)
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            torch.nn.init.normal_(mlp.layers[-1].weight, std=20)
        torch.nn.init.normal_(sam.mask_decoder.iou_prediction_head.layers[-1].weight, std=0.5)
    return sam


def make(**settings) -> Everything:
    config = SamConfig(**SETTINGS | settings)
    sam = small_sam()
    network = SamNetwork(sam, functools.partial(vit_encoder.encode, sam.image_encoder), config.precision)
    return Everything("small", network, config, None)


class TestSam(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        return make()

    def test_the_contract_is_not_kept_by_silence(self, generator):
        for height, width in ((48, 64), (37, 53), (40, 48)):
            assert len(generator(scene(height, width)[None])[0].masks) > 1


@pytest.mark.slow
class TestMobileSam(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        untrained = named_generator("mobile-sam", {"untrained": True} | SETTINGS | {"stability_score_thresh": 0})
        assert untrained.name == "untrained-mobile-sam"
        return untrained

    def test_the_contract_is_not_kept_by_silence(self, generator):
        assert len(generator(scene(48, 64)[None])[0].masks) > 0


def assert_as_published(generator: Everything, frame: torch.Tensor, **settings) -> int:
    """Compare with the package's own generator on the same network. Gives the number of masks."""
    published = SamAutomaticMaskGenerator(small_sam(), **settings)
    with torch.no_grad():
        records = published.generate(frame.numpy())
    (proposals,) = generator(frame[None])
    assert len(proposals.masks) == len(records)
    if records:
        masks = np.stack([r["segmentation"] for r in records])
        assert (proposals.masks.numpy() != masks).sum() <= 1e-4 * masks.size  # rounding, where logits are near zero
        ious = [r["predicted_iou"] for r in records]
        np.testing.assert_allclose(proposals.predicted_iou, ious, atol=1e-5)
        points = [r["point_coords"][0] for r in records]
        np.testing.assert_allclose(proposals.points, points, rtol=1e-6)
        stability = [r["stability_score"] for r in records]
        np.testing.assert_allclose(proposals.stability, stability, atol=1e-3)
    return len(records)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((60, 60), {"box_nms_thresh": 0.97, "points_per_side": 5}),
        ((40, 90), {"stability_score_offset": 3.0, "stability_score_thresh": 0.2}),
        ((90, 40), {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 1.0}),
    ],
)
def test_masks_are_those_of_the_package(size, settings):
    settings = SETTINGS | settings
    assert assert_as_published(make(**settings, clicks_per_batch=3), noise(*size), **settings) > 1


def test_encoder_is_the_published_one():
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 1024, 1024)).astype(np.float32))
    encoder = small_vit(2, (1,))
    with torch.no_grad():
        torch.testing.assert_close(vit_encoder.encode(encoder, images), encoder(images), atol=1e-5, rtol=1e-5)


def test_folding_batch_norms_changes_nothing():
    with fixed_initialisation():
        stage = mobile_sam().eval().image_encoder.body.stages[0]
        for module in stage.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
                torch.nn.init.uniform_(module.weight, 0.5, 2)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 64, 16, 16)).astype(np.float32))
    with torch.no_grad():
        before = stage(x.clone())
        fold_batch_norms(stage)
        torch.testing.assert_close(stage(x.clone()), before)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in stage.modules())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((48, 64), (768, 1024)),
        ((1080, 1440), (768, 1024)),
        ((53, 37), (30, 20)),
        ((1, 1), (7, 5)),
        ((300, 7), (11, 7)),
    ],
)
def test_resize_is_pillows(old, new):
    frame = noise(*old)
    expected = np.array(Image.fromarray(frame.numpy()).resize(new[::-1], Image.Resampling.BILINEAR))
    assert np.array_equal(pillow_resize(frame[None], new)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(224, 224), (90, 160), (375, 281), (1, 1), (1, 300), (2000, 1)])
def test_one_resize_for_two(size):
    """The composed maps against the published two steps with a crop between."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 30, (2, 256, 256)).astype(np.float32))
    inner = encoder_size(*size)
    large = F.interpolate(logits[None], (1024, 1024), mode="bilinear", align_corners=False)
    expected = F.interpolate(large[..., : inner[0], : inner[1]], size, mode="bilinear", align_corners=False)[0]
    rows, columns = logit_maps(*size)
    ours = resize_logits(logits[:, : rows.shape[1], : columns.shape[1]], rows, columns)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_products_are_torchs():
    rng = np.random.default_rng(0)
    a, b, bias = (torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in ((2, 5, 8), (2, 6, 8), (6,)))
    with torch.no_grad():
        torch.testing.assert_close(product(a, b), a @ b.transpose(1, 2))
        torch.testing.assert_close(linear(a, b[0], bias), F.linear(a, b[0], bias))
        torch.testing.assert_close(linear_gelu(a, b[0], bias), F.gelu(F.linear(a, b[0], bias)))
        half = product(a.bfloat16(), b.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            cast = linear(a, b[0], bias)
    assert half.dtype == cast.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (1, 3000)])
def test_tiny_frames(size):
    (proposals,) = make()(one_colour(*size)[None])
    assert proposals.masks.shape[1:] == size


def test_no_mask_at_all():
    (proposals,) = make(pred_iou_thresh=1e6)(scene(30, 40)[None])
    assert proposals.masks.shape == (0, 30, 40)
    assert proposals.boxes.shape == (0, 4)
    (cleaned,) = make(pred_iou_thresh=1e6, min_mask_region_area=5, crop_n_layers=1)(scene(30, 40)[None])
    assert cleaned.masks.shape == (0, 30, 40)


def test_no_frames():
    assert make()(torch.zeros(0, 30, 40, 3, dtype=torch.uint8)) == []


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, 30, 40),
        torch.zeros(1, 30, 40, 4, dtype=torch.uint8),
        torch.zeros(1, 30, 40, 3, dtype=torch.int32),
    ],
)
def test_other_frames_are_refused(frames):
    with pytest.raises(ValueError, match=r"uint8 \[B, H, W, 3\]"):
        make()(frames)


def test_batches_of_clicks_change_speed_only():
    one, many = (make(clicks_per_batch=n)(scene(48, 64)[None])[0] for n in (1, 9))
    assert torch.equal(one.masks, many.masks)


def test_cleaning_needs_no_opencv():
    plain, cleaned = (make(min_mask_region_area=n)(noise(64, 64)[None])[0] for n in (0, 40))
    assert 0 < len(cleaned.masks) <= len(plain.masks)
    assert torch.equal(cleaned.areas, cleaned.masks.sum((1, 2)))


def test_out_of_memory_makes_batches_smaller(monkeypatch):
    expected = make(clicks_per_batch=2)(scene(48, 64)[None])[0]
    generator = make(clicks_per_batch=8)
    decode = generator.network.decode

    def short_of_memory(clicks, met, chunk):
        if chunk.stop - chunk.start > 2:
            raise torch.OutOfMemoryError("no memory")
        return decode(clicks, met, chunk)

    monkeypatch.setattr(generator.network, "decode", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory; 2 clicks per batch"):
        assert_equal_proposals(generator(scene(48, 64)[None])[0], expected)
    monkeypatch.setattr(generator.network, "decode", lambda *_: short_of_memory(None, None, slice(0, 9)))
    with pytest.warns(UserWarning, match="1 clicks"), pytest.raises(torch.OutOfMemoryError):
        generator(scene(48, 64)[None])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_are_near(precision):
    exact, rounded = (make(precision=p, stability_score_thresh=0)(scene(48, 64)[None])[0] for p in ("fp32", precision))
    assert rounded.predicted_iou.dtype == torch.float32
    assert abs(float(rounded.predicted_iou.max() - exact.predicted_iou.max())) < 0.1
    best = rounded.masks[0] & exact.masks[0]
    assert best.sum() > 0.9 * exact.areas[0]


def test_precision_is_put_back():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with matrix_products("fp32"):
        assert not torch.backends.cudnn.allow_tf32
    with matrix_products("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.gpu
@pytest.mark.parametrize("clicks_per_batch", [2, None])
def test_gpu_equals_cpu(clicks_per_batch):
    frames = torch.stack([scene(48, 64, seed) for seed in range(3)])
    expected = make()(frames)
    moved = make(clicks_per_batch=clicks_per_batch).to(torch.device("cuda"))
    try:
        for ours, theirs in zip(moved(frames.cuda()), expected, strict=True):
            assert ours.masks.is_cuda
            assert ours.masks.shape == theirs.masks.shape
            assert (ours.masks.cpu() != theirs.masks).float().mean() < 1e-4
            torch.testing.assert_close(ours.predicted_iou.cpu(), theirs.predicted_iou, atol=1e-4, rtol=1e-4)
    finally:
        moved.to(torch.device("cpu"))  # the network is shared


def test_crops_cover_the_frame():
    crops = crop_grid(100, 160, 2, 512 / 1500)
    assert [c.layer for c in crops] == [0] + [1] * 4 + [2] * 16
    for layer in (1, 2):
        seen = torch.zeros(100, 160)
        for crop in crops:
            if crop.layer == layer:
                seen[crop.y0 : crop.y1, crop.x0 : crop.x1] += 1
        assert seen.min() >= 1
    assert all(c.x0 < c.x1 and c.y0 < c.y1 for c in crop_grid(1, 2, 3, 0.3))


def test_parameters_are_all_that_shape_the_output():
    generator = make(clicks_per_batch=4)
    hidden = {"weights", "untrained", "clicks_per_batch"}
    assert set(generator.parameters) == set(SamConfig.model_fields) - hidden
    assert SamConfig(**generator.parameters).model_dump(exclude=hidden) == generator.config.model_dump(exclude=hidden)


def test_wrong_parameters_are_named():
    with pytest.raises(BadInput, match="points_per_side: "):
        named_generator("mobile-sam", {"points_per_side": 0})
    with pytest.raises(BadInput, match="no points in the last"):
        named_generator("sam-vit-b", {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2})
    with pytest.raises(BadInput, match="precision: "):
        named_generator("mobile-sam", {"precision": "int8"})


def test_weights_of_another_model_are_refused(tmp_path):
    state = mobile_sam().state_dict()
    path = tmp_path / "mobile_sam.pt"
    torch.save({key: value for key, value in state.items() if "iou_token" not in key}, path)
    with pytest.raises(BadInput, match=r"missing: mask_decoder\.iou_token\.weight"):
        named_generator("mobile-sam", {"weights": str(path)})


def test_names_that_mobile_sam_takes_over_do_not_matter(monkeypatch):
    """Importing that package registers its own class under timm's name; the one used here is not looked up by name."""
    import timm.models._registry as registry

    monkeypatch.setitem(registry._model_entrypoints, "tiny_vit_5m_224", lambda **_: pytest.fail("asked the registry"))
    monkeypatch.setitem(sys.modules, "mobile_sam", types.ModuleType("mobile_sam"))
    assert mobile_sam().image_encoder.body.stages[3].downsample.conv2.conv.stride == (1, 1)
