"""The base of every config section in this room."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen config section; an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
