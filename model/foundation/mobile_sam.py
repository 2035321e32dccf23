"""MobileSAM (Zhang et al., 2023): SAM's prompt encoder and mask decoder on the features of a TinyViT.

The TinyViT is timm's class, so importing the mobile_sam package, which takes over timm's names, changes nothing here.
"""

from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from timm.layers.norm import LayerNorm2d
from timm.models.tiny_vit import ConvNorm, TinyVit
from torch import Tensor, nn

from ..weights.frozen import fixed_initialisation, load_frozen
from ..weights.state import State, rename_keys, under
from .click_decoder import GRID
from .everything import Everything
from .products import Precision
from .resize_maps import SIDE
from .sam import SamConfig, SamNetwork

WIDTH = 256  # channels of prompts and features
CLASSIFIER = ("image_encoder.norm_head.", "image_encoder.head.")  # of ImageNet, in the file but never run


class TinyVitEncoder(nn.Module):
    """TinyViT-5M whose last stage keeps its 64 x 64 tokens, and SAM's neck."""

    def __init__(self) -> None:
        super().__init__()
        self.body = TinyVit(
            num_classes=0,
            global_pool="",
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
        )
        self.body.add_module("head", nn.Identity())
        last_downsampling = self.body.get_submodule("stages.3.downsample.conv2.conv")
        assert isinstance(last_downsampling, nn.Conv2d)
        last_downsampling.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(320, WIDTH, 1, bias=False),
            LayerNorm2d(WIDTH, eps=1e-6),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            LayerNorm2d(WIDTH, eps=1e-6),
        )

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, 3, 1024, 1024], normalised and padded. Returns [B, 256, 64, 64]."""
        images = images.contiguous(memory_format=torch.channels_last)
        return self.neck(self.body.forward_features(images)).contiguous()


def mobile_sam() -> Sam:
    """The untrained network."""
    encoder: Any = TinyVitEncoder()  # segment-anything declares its own class, and needs none of it
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(GRID, GRID),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=2048, num_heads=8),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )


ENCODER_RULES = [
    ("neck.*", "neck.*"),
    ("patch_embed.seq.0.*", "body.patch_embed.conv1.*"),
    ("patch_embed.seq.2.*", "body.patch_embed.conv2.*"),
    # timm has the downsampling at the start of the next stage.
    *((f"layers.{i}.downsample.*", f"body.stages.{i + 1}.downsample.*") for i in range(3)),
    ("layers.*", "body.stages.*"),
    ("*", "body.*"),
]
RULES = [*under("image_encoder.", "image_encoder.", ENCODER_RULES), ("*", "*")]


def our_keys(published: State) -> dict[str, Tensor]:
    """Rename the keys of mobile_sam.pt to those of `mobile_sam()`; unknown keys stay as they are."""
    kept = {key: tensor for key, tensor in published.items() if not key.startswith(CLASSIFIER)}
    convolutions, _ = rename_keys(kept, [("image_encoder.*.c.weight", "image_encoder.*.conv.weight"), ("*", "*")])
    return rename_keys(convolutions, RULES)[0]


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm of a trained TinyViT into the convolution before it."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, child.fuse())
        else:
            fold_batch_norms(child)


def tiny_vit_network(sam: Sam, precision: Precision) -> SamNetwork:
    """Batch norms are folded into the convolutions of `sam`, so its weights must be in place."""
    encoder: Any = sam.eval().image_encoder
    fold_batch_norms(encoder)
    return SamNetwork(sam, encoder.to(memory_format=torch.channels_last), precision)


def build_mobile_sam(config: SamConfig) -> Everything:
    """The generator mobile-sam. Raises BadInput as `load_frozen`."""
    with fixed_initialisation():
        sam = mobile_sam()
    sha256 = load_frozen(sam, "mobile-sam", config, our_keys)
    return Everything(config.name("mobile-sam"), tiny_vit_network(sam, config.precision), config, sha256)
