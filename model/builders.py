"""From a name and its parameters to a frozen model: what proposal generators and audio encoders share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from ..errors import BadInput
from .config import Section


class Entry(NamedTuple):
    """One row of a table of builders: the parameters that a user may set, and what makes the model."""

    config: type[Section]
    build: Callable[[Any], Any]


def build_named(kind: str, entries: Mapping[str, Entry], name: str, parameters: Mapping[str, Any]) -> Any:
    """Validate `parameters` for the model called `name`, and build it. `kind` is the word for messages.

    Raises BadInput for an unknown name (listing the known ones) and for every parameter that is wrong, by its
    key.
    """
    if name not in entries:
        raise BadInput(f"no {kind} is called {name!r}; known: {', '.join(sorted(entries))}")
    entry = entries[name]
    try:
        config = entry.config.model_validate(dict(parameters))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in error.errors()]
        known = ", ".join(entry.config.model_fields) or "none"
        raise BadInput.listing(f"{kind} {name!r}:", problems, f"Its parameters: {known}.") from error
    return entry.build(config)
