"""How large a configured network is, part by part; nothing is allocated."""

import torch

from ...model.audio.vggish import VGGish
from ...model.combo import COMBO
from ..config.tree import Config

PARTS = {
    "image_backbone": "siam_encoder.image_backbone.",
    "maskige_backbone": "siam_encoder.maskige_backbone.",
    "gates": "siam_encoder.gates.",
    "pixel_decoder": "pixel_decoder.",
    "fusion": "fusion.",
    "audio_mlp": "audio_mlp.",
    "decoder": "decoder.",
}


def parameter_counts(config: Config, num_classes: int) -> dict[str, int]:
    """Numbers of parameters of the configured network and of the VGGish in front of it.

    Under the names of `PARTS`: each part's; their sum is "network", of which "trainable" learn. "vggish": the
    frozen audio encoder of the paper, which runs in stage one. "total": network and VGGish, as the paper counts
    (Table 4). "buffers", in none of the others: stored numbers that are no parameters, such as the frozen batch
    norms of ResNet-50. Raises `BadInput` for settings that do not fit together.
    """
    with torch.device("meta"):
        model, vggish = COMBO(config.model, num_classes), VGGish()
    parameters = dict(model.named_parameters())
    counts = {
        part: sum(p.numel() for name, p in parameters.items() if name.startswith(prefix))
        for part, prefix in PARTS.items()
    }
    counts["network"] = sum(counts.values())
    counts["trainable"] = sum(p.numel() for p in parameters.values() if p.requires_grad)
    counts["buffers"] = sum(t.numel() for name, t in model.state_dict().items() if name not in parameters)
    counts["vggish"] = sum(p.numel() for p in vggish.parameters())
    counts["total"] = counts["network"] + counts["vggish"]
    return counts


def describe_model(config: Config, num_classes: int) -> str:
    """`parameter_counts` as a table to print, in millions."""
    counts = parameter_counts(config, num_classes)
    return "\n".join(f"{name:<18}{count / 1e6:>10.3f} M" for name, count in counts.items())
