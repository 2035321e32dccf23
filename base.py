"""What `model/` and `data/` share, since neither may import the other."""

from pydantic import BaseModel, ConfigDict

IGNORE_LABEL = 255
"""Label of pixels that belong to no target: unannotated, or to be left out of losses and scores."""


class Section(BaseModel):
    """A frozen config section. An unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
