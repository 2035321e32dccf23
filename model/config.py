"""Everything that shapes the network. Defaults are the published COMBO-R50 for S4 and MS3."""

from typing import Literal

from pydantic import Field

from ..base import Section


class ModelConfig(Section):
    """COMBO's widths, depths and switches (paper, section 3 and appendix).

    The number of classes K is not a setting: it comes from the clip store.
    """

    backbone: Literal["r50", "pvt-v2-b5", "tiny"] = "r50"
    siam: Literal["none", "shared", "separate"] = "separate"  # Siam-Encoder for Maskiges (Tables 3 and 4)
    fusion: Literal["none", "visual", "audio", "bilateral"] = "bilateral"  # Bilateral-Fusion (Table 5)
    # What fusion adds to: the layer-normalised inputs (published code) or the inputs themselves (paper, Eqs. 4 and 5).
    fusion_residual: Literal["normalised", "raw"] = "normalised"
    queries: Literal["add", "all", "dim", "none"] = "add"  # how sound enters the queries (Table 6)
    audio_queries: Literal["per_frame", "published"] = "per_frame"  # published: the released code's layout defect
    num_queries: int = Field(100, ge=1)
    width: int = Field(256, ge=32, multiple_of=32)  # C
    audio_dim: int = Field(128, ge=1)  # D of the audio features
    audio_hidden: int = Field(4096, ge=1)  # hidden width of the audio MLP
    heads: int = Field(8, ge=1)
    encoder_layers: int = Field(6, ge=1)  # deformable layers of the pixel decoder
    encoder_ffn: int = Field(1024, ge=1)
    decoder_layers: int = Field(9, ge=1)  # masked transformer decoder
    decoder_ffn: int = Field(2048, ge=1)
