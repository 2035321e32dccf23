"""From a name and its parameters to a frozen model: what proposal generators and audio encoders share.

Names come from a table of ours and from installed packages that declare an entry point (docs/plugins.md). Packages are
imported only when one of their names is asked for.
"""

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from pydantic import ValidationError

from ..base import Section
from ..errors import BadInput, ComboError, did_you_mean

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One row of a table of builders: the parameters that a user may set, and what makes the model.

    build takes an instance of `config` and gives the model, on the CPU. What it raises for bad parameters or weights
    is `BadInput`.
    """

    config: type[Section]
    build: Callable[[Any], Any]


class Kind(NamedTuple):
    """What is built: the word for messages, the group of entry points, and the interface to implement."""

    what: str
    group: str
    interface: type


def plug_ins(kind: Kind) -> dict[str, list[EntryPoint]]:
    """What installed packages offer, by name; several under one name if packages collide. Imports none of them."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=kind.group):
        found.setdefault(point.name, []).append(point)
    return found


def known_names(kind: Kind, own: Mapping[str, Entry]) -> list[str]:
    """All names that `build_named` accepts, in alphabetical order; those of plug-ins as "name (package)"."""
    foreign = [f"{name} ({_packages(points)})" for name, points in plug_ins(kind).items() if name not in own]
    return sorted([*own, *foreign])


def build_named(kind: Kind, own: Mapping[str, Entry], name: str, parameters: Mapping[str, Any]) -> Any:
    """Validate `parameters` for the model called `name`, and build it. A name of ours wins over a plug-in's.

    Raises BadInput for an unknown name (listing the known ones), for every parameter that is wrong, by its key, and
    for a plug-in that cannot be imported or is none, naming its package; ComboError if a plug-in fails to build.
    """
    foreign = plug_ins(kind).get(name, [])
    if name in own:
        if foreign:
            log.warning("%s %r: ours is used, not the one of %s", kind.what, name, _packages(foreign))
        return _build(kind, own[name], name, parameters)
    if not foreign:
        known = f"known: {', '.join(known_names(kind, own))}"
        raise BadInput(f"no {kind.what} is called {name!r}; {known}{did_you_mean(name, [*own, *plug_ins(kind)])}")
    if len(foreign) > 1:
        raise BadInput(f"several packages offer a {kind.what} {name!r}: {_packages(foreign)}; uninstall all but one")
    return _build_plug_in(kind, foreign[0], parameters)


def _build(kind: Kind, entry: Entry, name: str, parameters: Mapping[str, Any]) -> Any:
    try:
        config = entry.config.model_validate(dict(parameters))
    except ValidationError as error:
        known = list(entry.config.model_fields)
        problems = [_explain(e, name, known) for e in error.errors()]
        advice = f"Its parameters: {', '.join(known) or 'none'}."
        raise BadInput.listing(f"{kind.what} {name!r}:", problems, advice) from error
    return entry.build(config)


def _explain(error: Any, name: str, known: list[str]) -> str:
    """One finding of pydantic's in words; name: of the model, for those that concern no single parameter."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{key}: no such parameter{did_you_mean(key, known)}"
    return f"{key or name}: {error['msg']}"


def _build_plug_in(kind: Kind, point: EntryPoint, parameters: Mapping[str, Any]) -> Any:
    who = f"the {kind.what} {point.name!r} of the package {_packages([point])}"
    try:
        entry = point.load()
    except Exception as error:  # code of others can fail in any way
        raise BadInput(f"{who} cannot be imported from {point.value}: {type(error).__name__}: {error}") from error
    if not isinstance(entry, Entry):
        raise BadInput(f"{who}: {point.value} is a {type(entry).__name__}, not an Entry of combo_avs.model.builders")
    try:
        model = _build(kind, entry, point.name, parameters)
    except ComboError:
        raise
    except Exception as error:
        raise ComboError(f"{who} cannot be built: {type(error).__name__}: {error}") from error
    wanted = [*(member for member in vars(kind.interface) if not member.startswith("_")), "__call__"]
    if missing := [member for member in wanted if not hasattr(model, member)]:
        kind_of_model, interface = type(model).__name__, kind.interface.__name__
        raise BadInput(f"{who} returned a {kind_of_model} without {', '.join(missing)}: see {interface}")
    return model


def _packages(points: list[EntryPoint]) -> str:
    """Name and version of the packages, such as "my-masks 1.2"."""
    return ", ".join(sorted(f"{point.dist.name} {point.dist.version}" for point in points if point.dist is not None))
