"""Everything that shapes the network. Defaults are the published COMBO-R50 for S4 and MS3."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from ..base import Section
from ..errors import did_you_mean
from .bilateral_fusion import FUSIONS


class ModelConfig(Section):
    """COMBO's widths, depths and switches (paper, section 3 and appendix).

    The number of classes K is not a setting: it comes from the clip store.
    """

    backbone: str = Field(default="r50", description="visual backbone: r50, pvt-v2-b5, or tiny (trains on a CPU)")
    siam: Literal["none", "shared", "separate"] = Field(
        default="separate",
        description="Siam-Encoder for Maskiges (Tables 3 and 4): none, one backbone for both, or one for each",
    )
    fusion: str = Field(
        default="bilateral",
        description="Bilateral-Fusion (Table 5): none, visual (sound into picture), audio (the reverse), or bilateral",
    )
    fusion_residual: Literal["normalised", "raw"] = Field(
        default="normalised",
        description="what fusion adds to: the layer-normalised inputs (published code) or the inputs (Eqs. 4 and 5)",
    )
    queries: Literal["add", "all", "dim", "none"] = Field(
        default="add",
        description="sound in queries (Table 6): added to them, instead of them, as half of their channels, or not",
    )
    audio_queries: Literal["per_frame", "published"] = Field(
        default="per_frame",
        description="whose sound a query hears: its frame's, or as the published code's tensor layout mixes frames",
    )
    num_queries: int = Field(default=100, ge=1, description="queries per frame")
    width: int = Field(default=256, ge=32, multiple_of=32, description="channels C of pixel decoder and queries")
    mask_dim: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="channels of mask features and mask embeddings (Mask2Former's MASK_DIM); null: as model.width",
    )
    audio_dim: int = Field(default=128, ge=1, description="channels D of the audio features; VGGish has 128")
    audio_hidden: int = Field(default=4096, ge=1, description="hidden channels of the audio MLP")
    heads: int = Field(default=8, ge=1, description="attention heads, everywhere")
    encoder_layers: int = Field(default=6, ge=1, description="deformable encoder layers of the pixel decoder")
    encoder_ffn: int = Field(default=1024, ge=1, description="hidden channels of their feed-forward networks")
    decoder_layers: int = Field(default=9, ge=1, description="layers of the masked transformer decoder")
    decoder_ffn: int = Field(default=2048, ge=1, description="hidden channels of their feed-forward networks")

    @property
    def mask_channels(self) -> int:
        """Channels of the mask features: `mask_dim`, or the width."""
        return self.mask_dim or self.width

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str) -> str:
        from .backbones import BACKBONES  # timm takes over a second to import

        return _one_of(BACKBONES, name, "backbone")

    @field_validator("fusion")
    @classmethod
    def _known_fusion(cls, name: str) -> str:
        return _one_of(FUSIONS, name, "fusion")


def _one_of(known: Iterable[str], name: str, what: str) -> str:
    if name in known:
        return name
    names = {"what": what, "known": ", ".join(known), "meant": did_you_mean(name, known)}
    raise PydanticCustomError("unknown_name", "no {what} is called that; there are {known}{meant}", names)
