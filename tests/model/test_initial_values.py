"""What every weight starts from: training from other values is another experiment."""

import re

import pytest
import torch
from torch import Tensor

from combo_avs.model.bilateral_fusion import BilateralFusion
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.criterion import consistency_loss

SMALL = {"backbone": "tiny", "num_queries": 64, "width": 64, "mask_dim": 96, "audio_dim": 48, "audio_hidden": 40}
SHALLOW = {"heads": 4, "encoder_layers": 1, "encoder_ffn": 96, "decoder_layers": 1, "decoder_ffn": 80}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = COMBO(ModelConfig.model_validate(SMALL | SHALLOW), 30)
    named = {name: p.detach() for name, p in network.named_parameters() if "backbone" not in name}
    return {name: p for name, p in named.items() if not re.search(r"norm|\.(smooth|lateral|input_proj\.\d)\.1\.", name)}


def xavier(weight: Tensor) -> float:
    area = weight[0, 0].numel()
    return (6 / (weight.shape[0] * area + weight.shape[1] * area)) ** 0.5


def kaiming(weight: Tensor) -> float:
    """For a linear activation, as Detectron2's c2_xavier_fill."""
    return (3 / weight[0].numel()) ** 0.5


def torchs(weight: Tensor) -> float:
    return (1 / weight[0].numel()) ** 0.5


BOUNDS = [
    (r"pixel_decoder\.(lateral|smooth)\.0|pixel_decoder\.mask_features", kaiming),
    (r"pixel_decoder\.(input_proj\.\d\.0|layers\.\d\.(linear\d|self_attn\.(value|output)_proj))", xavier),
    (r"fusion\..*_proj", xavier),
    (r"decoder\.layers\.\d\.(linear\d|(cross|self)_attention\.(in_proj_|out_proj))", xavier),
    (r"decoder\.(class_embed|mask_embed\.\d)|audio_mlp\.\d|siam_encoder\.gates\.\d\.fc\d", torchs),
]
ZERO = r"pixel_decoder\.(input_proj\.\d\.0|mask_features|layers\.\d\.self_attn\.(value_proj|output_proj))\.bias"
ZERO += r"|pixel_decoder\.layers\.\d\.self_attn\.(attention_weights\.(weight|bias)|sampling_offsets\.weight)"
ZERO += r"|fusion\..*_proj\.bias|decoder\.layers\.\d\.(cross|self)_attention\.(in_proj_bias|out_proj\.bias)"
NORMAL = r"(pixel_decoder\.level_embed|fusion\.(level_embed|audio_pos)\.weight"
NORMAL += r"|decoder\.(query_feat|query_embed|level_embed)\.weight)"
BY_VALUE = r"fusion\.gamma_[av]|pixel_decoder\.layers\.\d\.self_attn\.sampling_offsets\.bias"


def test_every_weight_starts_as_published(weights: dict[str, Tensor]) -> None:
    """Uniform within a bound, zero, or normal; sampling offsets and layer scales: `test_initial_values`."""
    for name, value in weights.items():
        if re.fullmatch(ZERO, name):
            assert not value.any(), name
        elif re.fullmatch(NORMAL, name):
            assert value.std().item() == pytest.approx(1, abs=0.5), name
            assert value.abs().max() > 1.5, name
        elif name.endswith("weight"):
            bound = next(of(value) for pattern, of in BOUNDS if re.match(pattern, name))
            few = 0.8 if value.numel() < 200 else 0.97
            assert few * bound < value.abs().max() <= bound * 1.0001, name
            assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.2), name
        elif not re.fullmatch(BY_VALUE, name):
            assert value.any(), name  # torch's own biases


def test_cosines_do_not_depend_on_the_size_of_logits() -> None:
    """Of a network that has just been made they are small."""
    masks = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    for size in (1e-3, 1e3):
        assert consistency_loss(size * masks).item() == pytest.approx(consistency_loss(masks).item(), rel=1e-5)


def test_scores_of_fusion_stay_finite_in_half_precision() -> None:
    """Those above 50,000, of either sign, count as that."""
    torch.manual_seed(0)
    module = BilateralFusion(2, 2, 1)
    with torch.no_grad():
        module.v_proj.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        module.a_proj.weight.zero_()
        module.a_proj.bias.copy_(torch.tensor([2**0.5, 0.0]))
        pixels = torch.tensor([0.0, 100.0, 49_999.0, 60_000.0, 90_000.0])
        x_BLC = torch.stack([pixels, torch.zeros(5)], dim=1)[None]
        found = module.attention(x_BLC, torch.zeros(1, 2), (1, 5))[0, :, 0]
        torch.testing.assert_close(found, torch.tensor([0, 0, found[2].item(), found[3].item(), found[3].item()]))
        assert found[3] > 2 * found[2] > 0.1
        below = module.attention(x_BLC[:, :2], torch.zeros(1, 2), (1, 2))[0, :, 0]
        assert below[0] < 1e-30
