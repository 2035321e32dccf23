"""SAM (Kirillov et al., 2023) with ViT-B, L and H as proposal generators: segment-anything's networks and weights."""

import functools
from collections.abc import Callable, Iterator
from typing import Self

import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from . import click_decoder, vit_encoder
from .click_decoder import Clicks, Decoded, Met
from .everything import Everything, EverythingConfig
from .precision import TYPES, Precision, matrix_products
from .resize_maps import SIDE, encoder_size, pillow_resize
from .weight_source import fixed_initialisation, generator_name, load_foundation

STRIP_ROWS = 16  # of maps on a CPU: 1 MB per click


class SamConfig(EverythingConfig):
    """Where the weights come from, beside the parameters of segmenting everything."""

    weights: str | None = None  # a file; None: the published one in the weights folder
    untrained: bool = False  # run without weights, for tests of speed; the name says so


class SamNetwork:
    """`ClickNetwork` of a `Sam` module. encoder: normalised images [B, 3, 1024, 1024] to features [B, 256, 64, 64]."""

    def __init__(self, sam: Sam, encoder: Callable[[Tensor], Tensor], precision: Precision) -> None:
        self.sam, self.encoder, self.precision = sam.eval().requires_grad_(False), encoder, precision
        self._prepare()

    def _prepare(self) -> None:
        self.device = self.sam.pixel_mean.device
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
            with torch.autocast(self.device.type, TYPES[self.precision], enabled=self.precision in ("bf16", "fp16")):
                features = self.encoder(prepare_images(self.sam, part)).float()
            yield from features

    def place(self, points: Tensor) -> Clicks:
        return click_decoder.prepare_clicks(self.weights, self.sam.prompt_encoder, points)

    def meet(self, clicks: Clicks, features: Tensor) -> Met:
        return click_decoder.meet_image(self.weights, clicks, features)

    def decode(self, clicks: Clicks, met: Met, chunk: slice) -> Decoded:
        return click_decoder.decode(self.weights, clicks, met, chunk)

    def draw(self, decoded: Decoded, which: Tensor, rows: int, columns: int) -> Tensor:
        strips, hyper = decoded.strips, decoded.hyper_GKE
        if len(which) < len(hyper):
            strips, hyper = [strip[which] for strip in strips], hyper[which]
        return click_decoder.draw_masks(self.weights, strips, hyper, rows, columns)


def prepare_images(sam: Sam, frames_BHWC: Tensor) -> Tensor:
    """Resize as Pillow does, normalise, then pad on the right and below: uint8 [B, H, W, 3] to [B, 3, 1024, 1024]."""
    resized = pillow_resize(frames_BHWC, encoder_size(*frames_BHWC.shape[1:3]))
    normalised = (resized - sam.pixel_mean) / sam.pixel_std
    height, width = resized.shape[2:]
    return F.pad(normalised, (0, SIDE - width, 0, SIDE - height))


def vit_network(sam: Sam, precision: Precision) -> SamNetwork:
    return SamNetwork(sam, functools.partial(vit_encoder.encode, sam.image_encoder), precision)


def build(variant: str, config: SamConfig) -> Everything:
    """The generator sam-vit-b, -l or -h; variant: the last letter. BadInput as in `load_foundation`."""
    name = f"sam-vit-{variant}"
    with fixed_initialisation():
        sam = sam_model_registry[f"vit_{variant}"]()
    sha256 = load_foundation(sam, name, config.weights, config.untrained)
    return Everything(generator_name(name, config.untrained), vit_network(sam, config.precision), config, sha256)
