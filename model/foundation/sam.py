"""SAM (Kirillov et al., 2023) with ViT-B, L and H as proposal generators: segment-anything's networks and weights."""

import functools
from collections.abc import Callable, Iterator
from typing import Self

import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from ..weights.frozen import WeightsConfig, fixed_initialisation, load_frozen
from . import click_decoder, vit_encoder
from .click_decoder import Decoded, ImageState, Prompts
from .everything import Everything, EverythingConfig
from .products import TYPES, Precision, autocast, matrix_products
from .resize_maps import SIDE, encoder_size, pillow_resize

NAMES = {f"sam-vit-{variant}": sam_model_registry[f"vit_{variant}"] for variant in "blh"}
STRIP_ROWS = 16  # of maps on a CPU: 1 MB per click


class SamConfig(EverythingConfig, WeightsConfig):
    """The parameters of segmenting everything, and where the weights come from."""


class SamNetwork:
    """`ClickNetwork` of a `Sam` module. encoder: normalised images [B, 3, 1024, 1024] to features [B, 256, 64, 64]."""

    def __init__(self, sam: Sam, encoder: Callable[[Tensor], Tensor], precision: Precision) -> None:
        self.sam, self.encoder = sam.eval().requires_grad_(False), encoder
        self.precision: Precision = precision
        self._prepare()

    def _prepare(self) -> None:
        self.device: torch.device = self.sam.device
        prompts, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        strip_rows = STRIP_ROWS if self.device.type == "cpu" else click_decoder.GRID
        with torch.no_grad(), matrix_products(self.precision):
            self.weights = click_decoder.prepare_weights(prompts, decoder, TYPES[self.precision], strip_rows)

    def to(self, device: torch.device) -> Self:
        self.sam.to(device)
        self._prepare()
        return self

    def encode(self, frames_BHWC: Tensor) -> Iterator[Tensor]:
        """uint8 [B, H, W, 3] to the features [256, 64, 64] of each frame: all at once on a GPU, else one by one."""
        on_cpu = self.device.type == "cpu"  # where a batch is slower, and would round in another order
        for part in frames_BHWC.split(1 if on_cpu else len(frames_BHWC)):
            with autocast(self.device, self.precision):
                features = self.encoder(prepare_images(self.sam, part)).float()
            yield from features

    def encode_prompts(self, points: Tensor) -> Prompts:
        return click_decoder.encode_prompts(self.weights, self.sam.prompt_encoder, points)

    def prepare_image(self, prompts: Prompts, features: Tensor) -> ImageState:
        return click_decoder.prepare_image(self.weights, prompts, features)

    def decode(self, prompts: Prompts, image: ImageState, chunk: slice) -> Decoded:
        return click_decoder.decode(self.weights, prompts, image, chunk)

    def render(self, decoded: Decoded, which: Tensor, rows: int, columns: int) -> Tensor:
        strips, hyper = decoded.strips, decoded.hyper_GKE
        if len(which) < len(hyper):
            strips, hyper = [strip[which] for strip in strips], hyper[which]
        return click_decoder.render_masks(self.weights, strips, hyper, rows, columns)


def prepare_images(sam: Sam, frames_BHWC: Tensor) -> Tensor:
    """Resize as Pillow does, normalise, then pad on the right and below: uint8 [B, H, W, 3] to [B, 3, 1024, 1024]."""
    resized = pillow_resize(frames_BHWC, encoder_size(*frames_BHWC.shape[1:3]))
    normalised = (resized - sam.get_buffer("pixel_mean")) / sam.get_buffer("pixel_std")
    height, width = resized.shape[2:]
    return F.pad(normalised, (0, SIDE - width, 0, SIDE - height))


def vit_network(sam: Sam, precision: Precision) -> SamNetwork:
    return SamNetwork(sam, functools.partial(vit_encoder.encode, sam.image_encoder), precision)


def build_sam(name: str, config: SamConfig) -> Everything:
    """The generator called `name` in `NAMES`. Raises BadInput as `load_frozen`."""
    with fixed_initialisation():
        sam = NAMES[name]()
    sha256 = load_frozen(sam, name, config)
    return Everything(config.name(name), vit_network(sam, config.precision), config, sha256)
