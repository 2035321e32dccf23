"""The whole network of Semantic-SAM, as far as clicks need it, and its official checkpoints.

Letters: B frames, C channels, H W height and width of frames.
"""

import re
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import BadInput
from ...deformable_attention import deformable_gather
from ...pixel_decoder import MASK2FORMER_KEYS, EncoderConfig, PixelDecoder
from ...weights.state import State, rename_keys, under
from .decoder import MaskDecoder, Memory
from .swin import Swin

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of RGB 0..255
STRIDE = 32  # sides of what the network sees are multiples of it


class Sizes(NamedTuple):
    """The hyperparameters in which Semantic-SAMs differ; the rest is as published for all."""

    backbone_width: int
    backbone_heads: int
    depths: tuple[int, ...]
    window: int
    width: int = 256  # C of both decoders
    layers: int = 6  # of the pixel decoder
    decoder_layers: int = 9
    ffn: int = 2048


SIZES = {
    "semantic-sam-t": Sizes(96, 3, (2, 2, 6, 2), 7),
    "semantic-sam-l": Sizes(192, 6, (2, 2, 18, 2), 12),
}


class ImageState(NamedTuple):
    """Per-image state of a batch of frames, shared by all prompts."""

    memory: Memory
    mask_features: Tensor  # float32 [B, C, H/4, W/4], of the padded frames


class SemanticSam(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        heads, levels = 8, 4
        self.backbone = Swin(sizes.backbone_width, sizes.backbone_heads, sizes.depths, sizes.window)
        encoder = EncoderConfig(
            sizes.width,
            heads,
            sizes.layers,
            sizes.ffn,
            extra_level=True,
            finest_first=True,
            sampler=deformable_gather,
        )
        self.pixel_decoder = PixelDecoder(self.backbone.channels, encoder, mask_dim=sizes.width)
        self.decoder = MaskDecoder(sizes.width, heads, sizes.decoder_layers, sizes.ffn, levels)

    def encode(self, frames_BHW3: Tensor) -> ImageState:
        """frames_BHW3: uint8 RGB, any size."""
        scales, mask_features = self.pixel_decoder(self.backbone(normalised(frames_BHW3)))
        return ImageState(self.decoder.prepare_image(scales), mask_features)


def normalised(frames_BHW3: Tensor) -> Tensor:
    """float32 [B, 3, H, W], padded with zeros (the mean colour) to multiples of 32 on the right and below."""
    frames = frames_BHW3.permute(0, 3, 1, 2).float()
    mean, std = (frames.new_tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    height, width = frames.shape[2:]
    return F.pad((frames - mean) / std, (0, -width % STRIDE, 0, -height % STRIDE))


def padded_size(height: int, width: int) -> tuple[int, int]:
    return height + -height % STRIDE, width + -width % STRIDE


# --- Official checkpoints ---

# Not needed for masks: text classes, the training loss, and what follows from the window size.
UNUSED = re.compile(
    r"sem_seg_head\.predictor\.(lang_mapper|class_embed|class_embed_part)"
    r"|criterion\..*"
    r"|backbone\..*\.relative_position_index"
)
# Published key -> ours; the first match counts. The release names one box head nineteen times and one norm twice.
HEADS = {
    "decoder.bbox_embed.#": "box_head",
    "bbox_embed.#": "box_head",
    "_bbox_embed": "box_head",
    "decoder.ref_point_head": "position_head",
    "iou_prediction_head": "iou_head",
    "mask_embed": "mask_head",
}
PREDICTOR_RULES = [
    ("decoder.layers.#.self_attn.*", "layers.#.self_attention.*"),
    ("decoder.layers.#.cross_attn.*", "layers.#.cross_attention.*"),
    ("decoder.layers.#.norm1.*", "layers.#.cross_norm.*"),
    ("decoder.layers.#.norm2.*", "layers.#.self_norm.*"),
    ("decoder.layers.#.norm3.*", "layers.#.ffn_norm.*"),
    ("decoder.layers.*", "layers.*"),
    ("decoder.norm.*", "norm.*"),
    ("decoder_norm.*", "norm.*"),
    # Our heads are sequences with a ReLU at every odd place.
    *((f"{theirs}.layers.{i}.*", f"{ours}.{2 * i}.*") for theirs, ours in HEADS.items() for i in range(3)),
    ("mask_tokens.*", "mask_tokens.*"),
    ("pb_embedding.*", "click_embed.*"),
    ("label_enc.*", "label_embed.*"),
]
# The release names one box head nineteen times and one norm twice. Unknown keys stay as they are.
RULES = [
    ("backbone.norm#.*", "backbone.norms.#.*"),
    *under("sem_seg_head.pixel_decoder.", "pixel_decoder.", MASK2FORMER_KEYS),
    *under("sem_seg_head.predictor.", "decoder.", PREDICTOR_RULES),
    ("*", "*"),
]


def from_published(state: State, name: str) -> dict[str, Tensor]:
    """Keys of an official checkpoint, with or without "model." before them, to those of `SemanticSam`.

    `UNUSED` keys are left out; unknown ones are passed on, for a strict loader to refuse. Raises `BadInput` if the
    checkpoint is of a Semantic-SAM other than `name`, and if names of one tensor hold different ones.
    """
    state = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    _check_variant(state, name)
    renamed, _ = rename_keys({key: tensor for key, tensor in state.items() if not UNUSED.fullmatch(key)}, RULES)
    return renamed


def _check_variant(state: State, name: str) -> None:
    patches = state.get("backbone.patch_embed.proj.weight")
    found = {sizes.backbone_width: other for other, sizes in SIZES.items()}
    other = None if patches is None else found.get(len(patches))
    if name in SIZES and other not in (None, name):
        raise BadInput(f"this is a checkpoint of {other}, not of {name}; name that generator, or another file")
