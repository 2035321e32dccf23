"""What stage one runs."""

from typing import Any

from pydantic import Field

from ...model.config import Section


class PrecomputeConfig(Section):
    """Parameters of the generator and the encoder that the command names.

    `generator` and `encoder` are validated by the config class of the generator or encoder itself.
    """

    generator: dict[str, Any] = Field({})  # for example {"scales": [50, 200]} for felzenszwalb
    encoder: dict[str, Any] = Field({})  # for example {"weights": "vggish-10086976.pth"} for vggish
    batch_frames: int = Field(8, ge=1)  # frames per call of the generator
    device: str = "auto"  # auto: cuda when there is one
