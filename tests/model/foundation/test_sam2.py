"""SAM 2.1 as a proposal generator: the contract, transformers' own mask generation beside it, weights, refusals."""

import functools
import sys
from pathlib import Path

import pytest
import torch
import transformers
from contracts import ProposalGeneratorContract, noise, scene
from PIL import Image
from safetensors.torch import save_file

from combo_avs.errors import BadInput
from combo_avs.model.foundation import generator as named_generator
from combo_avs.model.foundation.sam2 import SIZES, Sam2Config, Sam2Network, SquareEverything, build_sam2
from combo_avs.model.transformers_models import make_model
from combo_avs.model.weights import registry
from combo_avs.model.weights.frozen import WeightsConfig

SIDE = 128
SETTINGS = {
    "points_per_side": 4,
    "pred_iou_thresh": 0.5,
    "stability_score_thresh": 0.6,
    "stability_score_offset": 0.3,
    "box_nms_thresh": 1.0,
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums of several threads differ in their last bits from one split of the work to the next."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_config():
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // s, SIDE // s] for s in (4, 8, 16)],
        fpn_hidden_size=32,
    )
    prompts = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=SIDE)
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
    )
    return transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


@functools.cache
def small_model():
    """Random, with activations near 1, so that clicks give different masks and thresholds have work to do."""
    model, _ = make_model(transformers.Sam2Model, small_config(), "small", WeightsConfig(untrained=True))
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 1.5 * fan_in**-0.5)
            if "conv_s" in name:
                parameter *= 0.2  # the click matters more than the texture
    return model


def make(**settings) -> SquareEverything:
    config = Sam2Config(**SETTINGS | settings)
    return SquareEverything("small", Sam2Network(small_model(), config.precision), config, None)


class TestContract(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        return make()

    def test_the_contract_is_not_kept_by_silence(self, generator):
        for height, width in ((48, 64), (37, 53), (40, 48)):
            assert len(generator(scene(height, width)[None])[0].masks) > 1


class TestAsTransformers:
    """Its own pipeline on the same weights. On square frames only: elsewhere the pipeline clicks beside the grid."""

    @pytest.mark.parametrize("side", [64, 90, 224])
    @pytest.mark.parametrize(("overlap", "fewest", "most"), [(0.7, 1, 5), (1.0, 6, 47)])
    @pytest.mark.parametrize("frame", [scene, noise])
    def test_same_masks_in_the_same_order(self, frame, overlap, fewest, most, side):
        frame = frame(side, side)
        processor = transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
        theirs = transformers.pipeline("mask-generation", model=small_model(), image_processor=processor)(
            Image.fromarray(frame.numpy()),
            points_per_crop=SETTINGS["points_per_side"],
            pred_iou_thresh=SETTINGS["pred_iou_thresh"],
            stability_score_thresh=SETTINGS["stability_score_thresh"],
            stability_score_offset=SETTINGS["stability_score_offset"],
            crops_nms_thresh=overlap,
            output_bboxes_mask=True,
        )
        (ours,) = make(box_nms_thresh=overlap)(frame[None])
        assert fewest <= len(ours.masks) <= most
        torch.testing.assert_close(ours.predicted_iou, theirs["scores"])
        assert torch.equal(ours.boxes.long(), theirs["bounding_boxes"].long())
        # Both resize the same logits, in another order of sums: pixels whose logit is all but 0 may fall either way.
        assert (ours.masks != torch.stack(theirs["masks"])).float().mean() < 1e-5


def test_clicks_cover_frames_of_any_shape():
    """A frame and the same frame squashed have the same masks: the network sees the same square."""
    wide, square = torch.zeros(32, 64, 3, dtype=torch.uint8), torch.zeros(64, 64, 3, dtype=torch.uint8)
    for frame in (wide, square):
        frame[: len(frame) // 2] = torch.tensor([200, 60, 30], dtype=torch.uint8)
    settings = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1.0}
    (of_wide,), (of_square,) = (make(**settings)(frame[None]) for frame in (wide, square))
    assert of_wide.points[:, 1].max() < 32 <= of_square.points[:, 1].max()
    assert len(of_wide.masks) == len(of_square.masks) == 48


def test_chunks_of_clicks_change_nothing_but_rounding():
    frame = scene(60, 60)[None]
    (few,), (many,) = (make(clicks_per_batch=n)(frame) for n in (3, 16))
    torch.testing.assert_close(few.predicted_iou, many.predicted_iou)
    assert (few.masks != many.masks).float().mean() < 1e-3


def test_bf16_is_near():
    frame = scene(60, 60)[None]
    settings = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1.0}
    (exact,), (rough,) = (make(precision=p, **settings)(frame) for p in ("fp32", "bf16"))
    assert rough.predicted_iou.dtype == torch.float32
    assert (exact.predicted_iou - rough.predicted_iou).abs().max() < 0.05
    assert not torch.equal(exact.predicted_iou, rough.predicted_iou)


class TestWeights:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        file = registry.WeightFile("small", "small.safetensors", "https://x/small.safetensors", "-", "-", 1)
        monkeypatch.setitem(registry.WEIGHT_FILES, "small", file)

    def load(self, path: Path):
        return make_model(transformers.Sam2Model, small_config(), "small", WeightsConfig(weights=path))

    def write(self, path: Path, **changes: torch.Tensor | None) -> Path:
        state = {key: tensor.contiguous().clone() for key, tensor in small_model().state_dict().items()} | changes
        save_file({key: tensor for key, tensor in state.items() if tensor is not None}, path)
        return path

    def test_from_a_file(self, tmp_path):
        """The published files hold the memory of the video model too."""
        path = self.write(tmp_path / "a.safetensors", **{"memory_encoder.x": torch.zeros(2)})
        model, sha256 = self.load(path)
        assert len(sha256) == 64
        for key, tensor in small_model().state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor), key

    def test_all_that_does_not_fit_is_listed(self, tmp_path):
        changes = {
            "no_memory_embedding": None,
            "mask_decoder.iou_token.weight": torch.zeros(1, 5),
            "mask_decoder.conv_s0.bias": torch.full((4,), float("nan")),
            "surplus": torch.zeros(1),
        }
        path = self.write(tmp_path / "b.safetensors", **changes)
        with pytest.raises(BadInput) as error:
            self.load(path)
        for piece in (
            "b.safetensors does not fit small",
            "missing: no_memory_embedding",
            "unexpected: surplus",
            "mask_decoder.iou_token.weight has shape [1, 5], not [1, 32]",
            "mask_decoder.conv_s0.bias has values that are not finite",
        ):
            assert piece in str(error.value)

    def test_damaged(self, tmp_path):
        path = self.write(tmp_path / "c.safetensors")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(BadInput, match=r"c\.safetensors"):
            self.load(path)

    def test_untrained_and_weights(self):
        with pytest.raises(BadInput, match="contradict"):
            make_model(
                transformers.Sam2Model, small_config(), "small", WeightsConfig(weights="x.safetensors", untrained=True)
            )


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r"sam2\.1-hiera-tiny needs the package transformers: pip install"):
        named_generator("sam2.1-hiera-tiny", {"untrained": True})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("sam2.1-hiera-tiny", 31.0),
        ("sam2.1-hiera-small", 38.0),
        ("sam2.1-hiera-base-plus", 73.0),
        ("sam2.1-hiera-large", 216.0),
    ],
)
def test_the_published_sizes(name, millions):
    """The published counts are about 8 million higher: they hold the memory, which only videos need."""
    assert set(SIZES) >= {name}
    config = Sam2Config(untrained=True, points_per_side=1, pred_iou_thresh=0, stability_score_thresh=0)
    generator = build_sam2(name, config)
    assert generator.name == f"untrained-{name}"
    parameters = sum(p.numel() for p in generator.network.model.parameters())
    assert parameters == pytest.approx(millions * 1e6, rel=0.02)
    assert len(generator(scene(48, 64)[None])[0].masks) >= 1
