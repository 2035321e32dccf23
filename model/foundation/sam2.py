"""SAM 2.1 (Ravi et al., 2024) as proposal generator: the networks of the optional package transformers.

Beyond the paper. The grid, the tests and the suppression are those of `everything`, with SAM 2's published thresholds.
Letters: B frames, G clicks, K masks per click, C channels, H W pixels, R S rows and columns of low-resolution logits.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from ..transformers_models import make_model, transformers_package
from .everything import Everything, GridPrompts, point_grid
from .products import Precision, autocast
from .resize_maps import resize_map
from .sam import SamConfig

SIZES: dict[str, dict[str, Any]] = {
    "sam2.1-hiera-tiny": {},  # what transformers has as defaults
    "sam2.1-hiera-small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "sam2.1-hiera-base-plus": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
    "sam2.1-hiera-large": {
        "hidden_size": 144,
        "num_attention_heads": 2,
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}


class Sam2Config(SamConfig):
    """As for SAM, but for the threshold that SAM 2 publishes."""

    pred_iou_thresh: float = Field(default=0.8, description="keeps masks with a predicted IoU above it; 0 or less: all")


class Sam2Prompts(NamedTuple):
    """Encoded clicks: image-independent."""

    sparse_GPC: Tensor  # the click and the padding after it
    dense_1CHW: Tensor  # "no mask was given"
    positions_1CHW: Tensor


class Sam2Decoded(NamedTuple):
    predicted_iou_GK: Tensor
    logits_GKRS: Tensor


class Sam2Network:
    """`ClickNetwork` of a `Sam2Model`. Frames are squashed into a square of `side` pixels, as SAM 2 was trained."""

    def __init__(self, model: Any, precision: Precision) -> None:
        from transformers import Sam2ImageProcessor

        self.model: Any = model
        self.precision: Precision = precision
        self.side = model.config.prompt_encoder_config.image_size
        self.low = model.prompt_encoder.mask_input_size[0]  # side of the decoder's logits
        self.processor = Sam2ImageProcessor(size={"height": self.side, "width": self.side})
        self.device = model.device

    def to(self, device: torch.device) -> Self:
        self.device = self.model.to(device).device
        return self

    def encode(self, frames_BHWC: Tensor) -> Iterator[list[Tensor]]:
        """uint8 [B, H, W, 3] to the features of each frame: all at once on a GPU, else one by one."""
        for part in frames_BHWC.split(1 if self.device.type == "cpu" else len(frames_BHWC)):
            planes = list(part.permute(0, 3, 1, 2))
            images = self.processor(planes, input_data_format="channels_first", return_tensors="pt")["pixel_values"]
            with autocast(self.device, self.precision):
                levels = self.model.get_image_embeddings(images.to(self.device))
            yield from ([level[None] for level in frame] for frame in zip(*levels, strict=True))

    def encode_prompts(self, points: Tensor) -> Sam2Prompts:
        """points: float64 [G, 2], x and y in the square."""
        points_1GP2 = points.float()[None, :, None]
        labels = torch.ones_like(points_1GP2[..., 0], dtype=torch.int64)  # a click is on the object
        sparse, dense = self.model.get_prompt_embeddings(points_1GP2, labels)
        return Sam2Prompts(sparse[0], dense, self.model.get_image_wide_positional_embeddings())

    def prepare_image(self, prompts: Sam2Prompts, features: list[Tensor]) -> list[Tensor]:
        """[1, C, H, W] at a quarter, an eighth and a sixteenth of the square: transformers' decoder shares no more."""
        return features

    def decode(self, prompts: Sam2Prompts, image: list[Tensor], chunk: slice) -> Sam2Decoded:
        """Predict IoUs and logits at once: transformers' decoder does not separate the two."""
        *fine, coarse = image
        with autocast(self.device, self.precision):
            logits, ious, *_ = self.model.mask_decoder(
                image_embeddings=coarse,
                image_positional_embeddings=prompts.positions_1CHW,
                sparse_prompt_embeddings=prompts.sparse_GPC[None, chunk],
                dense_prompt_embeddings=prompts.dense_1CHW,
                multimask_output=True,
                high_resolution_features=fine,
            )
        return Sam2Decoded(ious[0].float(), logits[0])

    def render(self, decoded: Sam2Decoded, which: Tensor, rows: int, columns: int) -> Tensor:
        return decoded.logits_GKRS[which, :, :rows, :columns]


class SquareEverything(Everything):
    """`Everything` for a network that sees frames squashed into a square."""

    network: Sam2Network

    def _encode_prompts(self, height: int, width: int, per_side: int) -> GridPrompts:
        grid = torch.from_numpy(point_grid(per_side)).to(self.network.device)
        points = grid * grid.new_tensor([width, height])
        rows, columns = (resize_map(self.network.low, side).to(grid.device) for side in (height, width))
        return GridPrompts(self.network.encode_prompts(grid * self.network.side), points, rows, columns)


def build_sam2(name: str, config: Sam2Config) -> SquareEverything:
    """The generator called `name` in `SIZES`, on the CPU. Raises BadInput as `make_model`."""
    transformers = transformers_package(name)
    channels = SIZES[name].get("embed_dim_per_stage", [96, 192, 384, 768])
    backbone = transformers.Sam2HieraDetConfig(**SIZES[name])
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=channels[::-1])
    model_config = transformers.Sam2Config(vision_config=vision)
    model, sha256 = make_model(transformers.Sam2Model, model_config, name, config)
    return SquareEverything(config.name(name), Sam2Network(model, config.precision), config, sha256)
