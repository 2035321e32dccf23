"""Where paper and published code part (docs/fidelity.md): each choice has the effect that is said of it.

How sound reaches the queries is in test_networks.py, colours of augmentation in tests/data/test_augment.py.
"""

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from combo_avs.model.backbones import BACKBONES
from combo_avs.model.bilateral_fusion import FUSIONS, BilateralFusion, VisualFusion
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.criterion import CriterionConfig, Supervision, consistency_loss, criterion
from combo_avs.model.matcher import frame_targets
from combo_avs.model.position_encoding import sine_position_encoding

WIDTH, AUDIO_DIM, HEADS = 32, 12, 4
SMALL = {"backbone": "tiny", "num_queries": 4, "width": WIDTH, "audio_dim": AUDIO_DIM, "audio_hidden": 16}
SHALLOW = {"encoder_layers": 1, "encoder_ffn": 16, "decoder_layers": 1, "decoder_ffn": 16}


def fusion(name: str, residual: str = "normalised", gamma: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    module = FUSIONS[name](WIDTH, AUDIO_DIM, HEADS, residual).eval()
    for key, parameter in module.named_parameters():
        if "gamma" in key:
            nn.init.constant_(parameter, gamma)
    return module


def picture_and_sound() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(2, WIDTH, 6, 5, generator=generator), 3 * torch.randn(2, AUDIO_DIM, generator=generator)


def network(**settings: str) -> COMBO:
    torch.manual_seed(0)
    return COMBO(ModelConfig(**SMALL, **SHALLOW, siam="none", **settings), 2).eval()


def frames_and_sound() -> tuple[Tensor, None, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 255 * torch.rand(2, 3, 64, 64, generator=generator), None, torch.randn(2, AUDIO_DIM, generator=generator)


class TestAttention:
    """The matrix A of Eqs. 4 and 5 (Figure III)."""

    @pytest.mark.parametrize("name", ["audio", "bilateral"])
    def test_it_is_the_softmax_over_pixels_of_query_times_key_by_head(self, name: str) -> None:
        module, (visual, audio) = fusion(name), picture_and_sound()
        found = module.attention_map(visual, audio)
        pixels = (visual + module.level_embed.weight[0, :, None, None]).flatten(2).mT
        position = sine_position_encoding(6, 5, WIDTH, visual.device).flatten(1).T
        queries = module.v_proj(module.norm_v(pixels) + position).unflatten(2, (HEADS, -1))
        keys = module.a_proj(module.norm_a(audio) + module.audio_pos.weight).unflatten(1, (HEADS, -1))
        scores = torch.einsum("blne,bne->bnl", queries, keys) / (WIDTH / HEADS) ** 0.5
        torch.testing.assert_close(found, scores.softmax(dim=2).unflatten(2, (6, 5)))

    @pytest.mark.parametrize("name", ["none", "visual"])
    def test_fusions_without_it_have_none(self, name: str) -> None:
        assert fusion(name).attention_map(*picture_and_sound()) is None
        assert not FUSIONS[name](WIDTH, AUDIO_DIM, HEADS, "normalised").attends
        assert BilateralFusion.attends

    def test_the_network_cuts_padding_off_and_is_as_in_one_pass(self) -> None:
        model = network(fusion="bilateral")
        frames, _, audio = frames_and_sound()
        frames = frames[..., :50, :42]
        encoded = model.encode(frames, None)
        whole = model.fusion.attention_map(encoded.features.mask_features, audio)
        found = model.attention(encoded, audio)
        assert (whole.shape, found.shape) == ((2, 8, 16, 16), (2, 8, 13, 11))
        assert torch.equal(found, whole[..., :13, :11])
        assert torch.allclose(whole.sum(dim=(2, 3)), torch.ones(2, 8))
        parts, together = model.decode(encoded, audio), model(frames, None, audio)
        assert torch.equal(parts.logits, together.logits)
        assert torch.equal(parts.masks, together.masks)
        assert network(fusion="none").attention(encoded, audio) is None


class TestFusion:
    @pytest.mark.parametrize("name", ["visual", "audio", "bilateral"])
    def test_raw_residuals_leave_what_comes_in_as_it_is(self, name: str) -> None:
        """So a fusion that adds nothing is no fusion; with normalised residuals it still normalises."""
        inputs = picture_and_sound()
        none, raw, normalised = fusion("none"), fusion(name, "raw", gamma=0), fusion(name, gamma=0)
        for module in (raw, normalised):
            module.level_embed.load_state_dict(none.level_embed.state_dict())
        for with_raw, without in zip(raw(*inputs), none(*inputs), strict=True):
            assert torch.equal(with_raw, without)
        changed = [not torch.allclose(a, b) for a, b in zip(normalised(*inputs), none(*inputs), strict=True)]
        assert changed == [name != "audio", name != "visual"]

    @pytest.mark.parametrize("name", ["visual", "audio", "bilateral"])
    def test_what_fusion_adds_is_the_same_for_both_residuals(self, name: str) -> None:
        inputs = picture_and_sound()
        added = []
        for residual in ("raw", "normalised"):
            with_sound, without = fusion(name, residual, 1)(*inputs), fusion(name, residual, 0)(*inputs)
            added.append([a - b for a, b in zip(with_sound, without, strict=True)])
        for raw, normalised in zip(*added, strict=True):
            torch.testing.assert_close(raw, normalised, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", ["visual", "audio", "bilateral"])
    def test_with_raw_residuals_all_that_is_trainable_learns(self, name: str) -> None:
        model = network(fusion=name, fusion_residual="raw")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        logits, masks = model(*frames_and_sound())
        (logits.square().mean() + masks.square().mean()).backward()
        still = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert set(still) <= {"fusion.v_proj.bias"}  # a constant on all pixels cancels in the softmax over pixels

    def test_the_setting_reaches_the_network(self) -> None:
        with torch.no_grad():
            masks = [network(fusion_residual=r)(*frames_and_sound()).masks for r in ("raw", "normalised")]
        assert not torch.allclose(*masks)

    def test_attention_runs_over_pixels(self) -> None:
        """Over keys it would be 1 everywhere: a frame has one audio token."""
        module = fusion("bilateral")
        assert isinstance(module, BilateralFusion)
        picture, sound = picture_and_sound()
        attention_BLN = module.attention(picture.flatten(2).transpose(1, 2), sound, (6, 5))
        torch.testing.assert_close(attention_BLN.sum(1), torch.ones(2, HEADS))
        assert attention_BLN.std(1).min() > 0

    def test_visual_fusion_adds_one_vector_to_all_pixels(self) -> None:
        """What the softmax over keys comes to; as published."""
        inputs = picture_and_sound()
        module = fusion("visual")
        assert isinstance(module, VisualFusion)
        added = module(*inputs)[0] - fusion("visual", gamma=0)(*inputs)[0]
        torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), rtol=1e-4, atol=1e-5)
        assert added.abs().min() > 0


def clips_of_masks(frames: int, predictions: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits, mask logits, labels and supervision flags for `criterion`."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(predictions, frames, 3, 3, generator=generator)
    masks = torch.randn(predictions, frames, 3, 4, 4, generator=generator)
    labels = torch.randint(2, (frames, 16, 16), generator=generator, dtype=torch.uint8)
    return logits, masks, labels, torch.ones(frames, dtype=torch.bool)


class TestConsistency:
    @pytest.mark.parametrize(
        ("where", "predictions", "read"),
        [
            ("aux", 10, [f"_{p}" for p in range(9)]),
            ("all", 10, [*(f"_{p}" for p in range(9)), ""]),
            ("middle", 10, ["_5"]),  # the fifth of nine layers
            ("middle", 4, ["_2"]),  # the second of three
        ],
    )
    def test_which_predictions_are_read(self, where: str, predictions: int, read: list[str]) -> None:
        config = CriterionConfig(num_points=8, consistency_on=where)
        logits, masks, labels, supervised = clips_of_masks(5, predictions)
        losses = criterion(logits, masks, Supervision(labels, supervised, [5]), config)
        assert [n.removeprefix("loss_cosine") for n in losses if n.startswith("loss_cosine")] == read

    def test_ten_frames_are_two_clips_or_one(self) -> None:
        """Masks that change between the fifth frame and the sixth alone."""
        logits, masks, labels, supervised = clips_of_masks(15)
        masks = torch.stack([masks[:, 0]] * 5 + [masks[:, 1]] * 5 + [masks[:, 2]] * 5, dim=1)

        def loss(clip: str, lengths: list[int]) -> float:
            config = CriterionConfig(num_points=8, consistency_clip=clip)
            return criterion(logits, masks, Supervision(labels, supervised, lengths), config)["loss_cosine_0"].item()

        assert loss("five", [10, 5]) == loss("whole", [5, 5, 5]) == pytest.approx(0, abs=1e-5)
        assert loss("whole", [10, 5]) > 0.1

    def test_every_pair_of_neighbours_weighs_the_same(self) -> None:
        masks = clips_of_masks(15)[1][0]
        cosines = torch.cosine_similarity(masks.flatten(1)[:-1], masks.flatten(1)[1:])
        pairs = (1 - cosines) * (cosines - 1).exp()
        torch.testing.assert_close(
            consistency_loss(masks.flatten(1), [10, 5]), torch.cat([pairs[:9], pairs[10:]]).mean()
        )

    @pytest.mark.parametrize("detach", [False, True])
    def test_whether_unlike_neighbours_are_drawn_together(self, detach: bool) -> None:
        """A step down the gradient: with the published slope, masks of negative cosine go further apart."""
        one = torch.tensor([1.0, 0.0])
        two = torch.tensor([-0.5, 1.0], requires_grad=True)
        loss = consistency_loss(torch.stack([one, one, one, one, two]).flatten(1), detach=detach)
        loss.backward()
        before = torch.cosine_similarity(one, two, dim=0)
        after = torch.cosine_similarity(one, two - 0.1 * two.grad, dim=0)
        assert before < 0
        assert (after > before) == detach

    def test_detaching_leaves_the_value(self) -> None:
        masks = clips_of_masks(10)[1][0].flatten(1)
        assert consistency_loss(masks, detach=True) == consistency_loss(masks, detach=False)


def test_background_is_a_target_like_any_other() -> None:
    """So an empty frame is supervised: one query has to say "background" for all of it."""
    labels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    labels[1] = 1
    labels[2, :4] = 1
    targets = frame_targets(labels, torch.ones(3, dtype=torch.bool), 2)
    assert [row[:n].tolist() for row, n in zip(targets.classes_SN, targets.counts, strict=True)] == [[0], [1], [0, 1]]


def test_resnet_trains_convolutions_behind_frozen_norms() -> None:
    with torch.device("meta"):
        network, _ = BACKBONES["r50"]()
    norms = {name: m for name, m in network.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert len(norms) == 53
    assert {m.eps for m in norms.values()} == {1e-5}
    assert all(p.requires_grad and p.ndim == 4 for p in network.parameters())


def test_the_audio_mlp_has_the_published_widths() -> None:
    with torch.device("meta"):
        layers = COMBO(ModelConfig(backbone="tiny"), 2).audio_mlp
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [list(layer.weight.shape) for layer in layers[::2]] == [[4096, 128], [4096, 4096], [256, 4096]]


def test_stochastic_depth_of_pvt_rises_evenly() -> None:
    with torch.device("meta"):
        network, _ = BACKBONES["pvt-v2-b5"]()
    blocks = [m.drop_path1 for m in network.modules() if hasattr(m, "drop_path1")]
    rates = [b.drop_prob if isinstance(b, DropPath) else 0.0 for b in blocks]
    assert rates == pytest.approx([0.1 * i / 51 for i in range(52)], abs=1e-6)
