"""Random numbers by clip, and what dropout and stochastic depth make of them."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from combo_avs.model.backbones import BACKBONES, Built, PerClipDropPath, set_drop_path
from combo_avs.model.bilateral_fusion import AudioFusion, BilateralFusion
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.random_numbers import rand_by_clip, rand_on, rows_of
from combo_avs.model.siam_encoder import SiamEncoder

CPU = torch.device("cpu")


def numbered(calls: list[tuple[int, ...]]) -> Callable[[tuple[int, ...]], Tensor]:
    """A `uniform` whose calls differ and can be made again: call i draws from seed i. It keeps the shapes."""

    def uniform(shape: tuple[int, ...]) -> Tensor:
        calls.append(tuple(shape))
        return draw(len(calls) - 1, shape)

    return uniform


def draw(call: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(call))


class TestByClip:
    def test_every_clip_draws_from_its_own_seed(self) -> None:
        uniform = rand_by_clip([7, 2**64 - 1], CPU)
        one, other = (torch.Generator().manual_seed(seed) for seed in (7, 2**64 - 1))
        for rows, shape in (([2, 1], (3,)), ([1, 2], (2, 2))):  # the second call goes on where the first ended
            expected = [torch.rand((n, *shape), generator=g) for n, g in zip(rows, (one, other), strict=True)]
            assert torch.equal(uniform(rows, shape), torch.cat(expected))

    def test_a_runs_numbers_are_these(self) -> None:
        """Runs that are resumed go on with them."""
        expected = torch.tensor([[0.7576, 0.2793], [0.9938, 0.5713], [0.5700, 0.0495]])
        torch.testing.assert_close(rand_by_clip([1, 2**64 - 1], CPU)([1, 2], (2,)), expected, rtol=0, atol=5e-5)

    def test_without_seeds_they_are_torchs(self) -> None:
        torch.manual_seed(3)
        found = rand_on(CPU)([2, 3], (4,))
        torch.manual_seed(3)
        assert torch.equal(found, torch.rand(5, 4))

    def test_rows_are_fixed_once(self) -> None:
        asked = []
        uniform = rows_of(lambda rows, shape: asked.append((rows, shape)) or torch.zeros(5, *shape), [2, 3])
        assert uniform((5, 4, 2)).shape == (5, 4, 2)
        assert asked == [([2, 3], (4, 2))]


class TestStochasticDepth:
    def test_rows_below_the_rate_are_dropped_and_the_others_scaled(self) -> None:
        path = PerClipDropPath(0.2).train()
        path.drawn_B = torch.tensor([0.0, 0.1999, 0.2, 0.9])
        x = torch.arange(24.0).view(4, 3, 2)
        torch.testing.assert_close(path(x), x * torch.tensor([0, 0, 1.25, 1.25]).view(4, 1, 1))
        assert torch.equal(path.eval()(x), x)

    def test_every_path_has_a_column_of_its_own(self) -> None:
        paths = [PerClipDropPath(0.5) for _ in range(3)]
        calls: list[tuple[int, ...]] = []
        set_drop_path(nn.Sequential(paths[0], nn.Sequential(*paths[1:])), numbered(calls), 4)
        assert calls == [(4, 3)]
        for path, expected in zip(paths, draw(0, (4, 3)).unbind(1), strict=True):
            assert path.drawn_B is not None
            assert torch.equal(path.drawn_B, expected)
        set_drop_path(nn.Sequential(*paths), None, 4)
        assert [path.drawn_B for path in paths] == [None] * 3


class Stages(nn.Module):
    """A backbone of two residual branches with stochastic depth, whose four maps show what was dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(PerClipDropPath(0.5) for _ in range(2))
        self.scale = nn.Parameter(torch.rand(()) + 0.5)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.scale * x.mean(1, keepdim=True).expand(-1, 16, -1, -1)
        for path in self.paths:
            x = x + path(x.square())
        return [nn.functional.avg_pool2d(x, stride) for stride in (4, 8, 16, 32)]

    @staticmethod
    def build() -> Built:
        return Stages(), [16] * 4


class TestSiamEncoder:
    @pytest.fixture(autouse=True)
    def _stages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(BACKBONES, "stages", Stages.build)

    @staticmethod
    def encoder(siam: str) -> SiamEncoder:
        torch.manual_seed(0)
        encoder = SiamEncoder("stages", siam).train()
        for parameter in encoder.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter)
        return encoder

    @pytest.mark.parametrize(("siam", "calls"), [("shared", 2), ("separate", 2), ("none", 1)])
    def test_frames_are_added_to_maskiges_by_weight_each_with_its_own_draws(self, siam: str, calls: int) -> None:
        """Draws 0 belong to the frames, draws 1 to their Maskiges."""
        encoder, (frames, maskiges) = self.encoder(siam), torch.randn(2, 3, 3, 32, 64).unbind()
        asked: list[tuple[int, ...]] = []
        found = encoder(frames, maskiges, numbered(asked))
        assert asked == [(3, 2)] * calls
        set_drop_path(encoder.image_backbone, lambda shape: draw(0, shape), 3)
        expected = encoder.image_backbone(frames)
        if encoder.gates is not None:
            twin = encoder.maskige_backbone or encoder.image_backbone
            set_drop_path(twin, lambda shape: draw(1, shape), 3)
            for i, (gate, maskige) in enumerate(zip(encoder.gates, twin(maskiges), strict=True)):
                weight_BC = gate.fc2(gate.fc1(maskige.mean((2, 3))).relu()).sigmoid()
                expected[i] = expected[i] + weight_BC[..., None, None] * maskige
        assert [m.shape[-2:] for m in found] == [(8, 16), (4, 8), (2, 4), (1, 2)]
        torch.testing.assert_close(found, expected)

    def test_without_draws_torchs_own_are_used(self) -> None:
        encoder, x = self.encoder("shared"), torch.randn(64, 3, 32, 32)
        encoder(x, x, numbered([]))
        one, other = encoder(x, x), encoder(x, x)  # no draws are left over from the pass before
        assert not torch.equal(one[0], other[0])

    @pytest.mark.parametrize("siam", ["shared", "separate"])
    def test_which_backbone_sees_what(self, siam: str) -> None:
        encoder, (frames, maskiges) = self.encoder(siam).eval(), torch.randn(2, 2, 3, 32, 32).unbind()
        assert encoder.gates is not None
        for gate in encoder.gates:
            nn.init.constant_(gate.fc2.bias, -200)  # no Maskige gets through
        found = encoder(frames, maskiges)
        torch.testing.assert_close(found, encoder.image_backbone(frames))


class TestFusionDropout:
    @staticmethod
    def fusion() -> BilateralFusion:
        torch.manual_seed(0)
        module = BilateralFusion(8, 6, 2).train()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        return module

    @pytest.mark.parametrize(("number", "factor"), [(0.0999, 0.0), (0.1, 1 / 0.9)])
    def test_one_tenth_is_dropped_and_the_rest_scaled(self, number: float, factor: float) -> None:
        attention = torch.rand(2, 12, 2)
        found = self.fusion().dropout(attention, lambda shape: torch.full(shape, number))
        torch.testing.assert_close(found, factor * attention)

    def test_torchs_own_numbers_drop_one_tenth_too(self) -> None:
        torch.manual_seed(0)
        found = self.fusion().dropout(torch.ones(10, 1000, 2), None)
        assert found.unique().tolist() == pytest.approx([0, 1 / 0.9])
        assert 0.09 < (found == 0).float().mean() < 0.11

    def test_none_in_evaluation(self) -> None:
        attention = torch.rand(2, 12, 2)
        for uniform in (None, torch.zeros):
            assert torch.equal(self.fusion().eval().dropout(attention, uniform), attention)

    def test_each_direction_has_draws_of_its_own(self) -> None:
        module, visual, audio = self.fusion(), torch.randn(2, 8, 3, 4), torch.randn(2, 6)
        asked: list[tuple[int, ...]] = []
        fused, heard = module(visual, audio, numbered(asked))
        assert asked == [(2, 12, 2)] * 2
        x = module.norm_v(module.embed(visual).flatten(2).transpose(1, 2))
        a = module.norm_a(audio)
        attention = module.attention(x, a, (3, 4))
        picture, sound = (attention * (draw(call, (2, 12, 2)) >= 0.1) / 0.9 for call in (0, 1))
        expected = x + module.gamma_v * module.sound_into_picture(a, picture)
        torch.testing.assert_close(fused, expected.transpose(1, 2).unflatten(2, (3, 4)))
        torch.testing.assert_close(heard, module.picture_into_sound(a, x, sound))

    def test_folded_projections_are_those_of_every_pixel(self) -> None:
        """Also where dropout has left attention that does not add up to 1."""
        module, x, a = self.fusion(), torch.randn(2, 12, 8), torch.randn(2, 6)
        attention = torch.rand(2, 12, 2)
        values_BLNE = module.values_v_proj(x).unflatten(-1, (2, 4))
        heard = module.out_a_proj((attention[..., None] * values_BLNE).sum(1).flatten(1))
        torch.testing.assert_close(module.picture_into_sound(a, x, attention), a + module.gamma_a * heard)
        values_BNE = module.values_a_proj(a).unflatten(-1, (2, 4))
        given = module.out_v_proj((attention[..., None] * values_BNE[:, None]).flatten(2))
        torch.testing.assert_close(module.sound_into_picture(a, attention), given)

    def test_the_audio_direction_alone_draws_once(self) -> None:
        torch.manual_seed(0)
        module, visual, audio = AudioFusion(8, 6, 2).train(), torch.randn(2, 8, 3, 4), torch.randn(2, 6)
        nn.init.ones_(module.gamma_a)
        asked: list[tuple[int, ...]] = []
        module(visual, audio, numbered(asked))
        assert asked == [(2, 12, 2)]
        everything, nothing = (module(visual, audio, lambda s, n=n: torch.full(s, n))[1] for n in (0.5, 0.05))
        torch.testing.assert_close(nothing, module.norm_a(audio) + module.out_a_proj.bias)
        assert not torch.allclose(everything, nothing)


def test_the_networks_numbers_reach_backbones_and_fusion() -> None:
    """In this order: frames, Maskiges, sound into picture, picture into sound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "stages", Stages.build)
        torch.manual_seed(0)
        small = {"width": 32, "heads": 2, "num_queries": 2, "audio_dim": 4, "audio_hidden": 4}
        shallow = {"encoder_layers": 1, "encoder_ffn": 8, "decoder_layers": 1, "decoder_ffn": 8}
        config = ModelConfig.model_validate({"backbone": "stages", **small, **shallow})
        model = COMBO(config, 2).train()
    asked: list[tuple[int, ...]] = []
    frames, audio = torch.rand(2, 3, 64, 32), torch.rand(2, 4)
    one = model(frames, frames, audio, numbered(asked))
    assert asked == [(2, 2), (2, 2), (2, 128, 2), (2, 128, 2)]
    again, other = model(frames, frames, audio, numbered([])), model(frames, frames, audio, numbered([(0,)]))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise([one.masks, other.masks]))
