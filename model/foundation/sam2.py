"""SAM 2.1 (Ravi et al., 2024) as proposal generator: the networks of the optional package transformers.

Beyond the paper. The grid, the tests and the suppression are those of `everything`, with SAM 2's published thresholds.
Letters: B frames, G clicks, K masks per click, C channels, H W pixels, R S rows and columns of low-resolution logits.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..transformers_models import make_model, transformers_package
from .everything import Everything, Placed, point_grid
from .precision import TYPES, Precision
from .sam import SamConfig
from .weight_source import generator_name

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

    pred_iou_thresh: float = 0.8


class Clicks(NamedTuple):
    """Clicks as the decoder reads them, whatever the image."""

    sparse_GPC: Tensor  # the click and the padding after it
    dense_1CHW: Tensor  # "no mask was given"
    positions_1CHW: Tensor


class Met(NamedTuple):
    clicks: Clicks
    features: list[Tensor]  # [1, C, H, W] at a quarter, an eighth and a sixteenth of the encoder's pixels


class Decoded(NamedTuple):
    predicted_iou_GK: Tensor
    logits_GKRS: Tensor


class Sam2Network:
    """`ClickNetwork` of a `Sam2Model`. Frames are squashed into a square of `side` pixels, as SAM 2 was trained."""

    def __init__(self, model: Any, precision: Precision) -> None:
        from transformers import Sam2ImageProcessor

        self.model, self.precision = model, precision
        self.side = model.config.prompt_encoder_config.image_size
        self.low = model.prompt_encoder.mask_input_size[0]  # side of the decoder's logits
        self.processor = Sam2ImageProcessor(size={"height": self.side, "width": self.side})
        self.device = model.device

    def to(self, device: torch.device) -> Self:
        self.device = self.model.to(device).device
        return self

    def _in_precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, TYPES[self.precision], enabled=self.precision in ("bf16", "fp16"))

    def encode(self, frames_BHWC: Tensor) -> Iterator[list[Tensor]]:
        """uint8 [B, H, W, 3] to the features of each frame: all at once on a GPU, else one by one."""
        for part in frames_BHWC.split(1 if self.device.type == "cpu" else len(frames_BHWC)):
            planes = list(part.permute(0, 3, 1, 2))
            images = self.processor(planes, input_data_format="channels_first", return_tensors="pt")["pixel_values"]
            with self._in_precision():
                levels = self.model.get_image_embeddings(images.to(self.device))
            yield from ([level[None] for level in frame] for frame in zip(*levels, strict=True))

    def place(self, points: Tensor) -> Clicks:
        """points: float64 [G, 2], x and y in the square."""
        points_1GP2 = points.float()[None, :, None]
        labels = torch.ones_like(points_1GP2[..., 0], dtype=torch.int64)  # a click is on the object
        sparse, dense = self.model.get_prompt_embeddings(points_1GP2, labels)
        return Clicks(sparse[0], dense, self.model.get_image_wide_positional_embeddings())

    def meet(self, clicks: Clicks, features: list[Tensor]) -> Met:
        return Met(clicks, features)

    def decode(self, clicks: Clicks, met: Met, chunk: slice) -> Decoded:
        """Judge and draw at once: transformers' decoder does not separate the two."""
        *fine, coarse = met.features
        with self._in_precision():
            logits, ious, *_ = self.model.mask_decoder(
                image_embeddings=coarse,
                image_positional_embeddings=clicks.positions_1CHW,
                sparse_prompt_embeddings=clicks.sparse_GPC[None, chunk],
                dense_prompt_embeddings=clicks.dense_1CHW,
                multimask_output=True,
                high_resolution_features=fine,
            )
        return Decoded(ious[0].float(), logits[0])

    def draw(self, decoded: Decoded, which: Tensor, rows: int, columns: int) -> Tensor:
        return decoded.logits_GKRS[which, :, :rows, :columns]


class SquareEverything(Everything):
    """`Everything` for a network that sees frames squashed into a square."""

    network: Sam2Network

    def _place(self, height: int, width: int, per_side: int) -> Placed:
        grid = torch.from_numpy(point_grid(per_side)).to(self.network.device)
        points = grid * grid.new_tensor([width, height])
        rows, columns = (_axis_map(self.network.low, side).to(grid.device) for side in (height, width))
        return Placed(self.network.place(grid * self.network.side), points, rows, columns)


def _axis_map(low: int, frame: int) -> Tensor:
    """Bilinear resizing of one axis as a matrix, float32 [frame, low]: its columns are the resized unit vectors."""
    units = torch.eye(low)[:, None, :, None]
    return F.interpolate(units, size=(frame, 1), mode="bilinear", align_corners=False)[:, 0, :, 0].T.contiguous()


def build(name: str, config: Sam2Config) -> SquareEverything:
    """The generator called `name` in `SIZES`, on the CPU. Raises BadInput as `make_model` does."""
    transformers = transformers_package(name)
    channels = SIZES[name].get("embed_dim_per_stage", [96, 192, 384, 768])
    backbone = transformers.Sam2HieraDetConfig(**SIZES[name])
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=channels[::-1])
    network_config = transformers.Sam2Config(vision_config=vision)
    model, sha256 = make_model(transformers.Sam2Model, network_config, name, config.weights, config.untrained)
    network = Sam2Network(model, config.precision)
    return SquareEverything(generator_name(name, config.untrained), network, config, sha256)
