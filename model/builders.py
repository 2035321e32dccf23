"""Build a frozen model from its name and parameters: what proposal generators and audio encoders share.

Names come from our own table and from installed packages that declare an entry point (docs/plugins.md). A package is
imported only when one of its names is asked for.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from ..base import Section
from ..errors import BadInput, ComboError, did_you_mean

log = logging.getLogger(__name__)
Model = TypeVar("Model", covariant=True)  # ProposalGenerator or AudioEncoder


class FrozenModel(Protocol):
    """Frozen and deterministic.

    The fingerprint of a cache is made from these members: whatever changes the output must change one of them.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...  # JSON values

    @property
    def weights_sha256(self) -> str | None: ...  # None if there are no weights


class Entry(NamedTuple, Generic[Model]):
    """One row of a table of builders, or the entry point of a plug-in.

    config: the parameters that a user may set.
    build: returns the model, on the CPU, for an instance of `config`. Raises `BadInput` for bad parameters or weights.
    exact: parameters that trade exactness for speed, with the values at which the model is exact. At other values,
        stage one measures on a few frames how close the masks are, and keeps that with the cache.
    """

    config: type[Section]
    build: Callable[[Any], Model]
    exact: Mapping[str, Any] = MappingProxyType({})


class Kind(NamedTuple):
    """A kind of model: the word for it in messages, the group of its entry points, and the interface to implement."""

    what: str
    group: str
    interface: type


def plug_ins(kind: Kind) -> dict[str, list[EntryPoint]]:
    """What installed packages offer, by name; several under one name if packages collide. Imports none of them."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=kind.group):
        found.setdefault(point.name, []).append(point)
    return found


def known_names(kind: Kind, own: Iterable[str]) -> list[str]:
    """All names that `build_named` accepts, in alphabetical order; those of plug-ins as "name (package)"."""
    foreign = [f"{name} ({_packages(points)})" for name, points in plug_ins(kind).items() if name not in own]
    return sorted([*own, *foreign])


def find_entry(kind: Kind, own: Mapping[str, Entry[Model]], name: str) -> Entry[Model]:
    """The entry called `name`; one of ours wins over a plug-in's.

    Raises BadInput for an unknown name (listing the known ones), and for a plug-in that cannot be imported or is none,
    naming its package.
    """
    foreign = plug_ins(kind).get(name, [])
    if name in own:
        if foreign:
            log.warning("%s %r: ours is used, not the one of %s", kind.what, name, _packages(foreign))
        return own[name]
    if not foreign:
        known = f"known: {', '.join(known_names(kind, own))}"
        raise BadInput(f"no {kind.what} is called {name!r}; {known}{did_you_mean(name, [*own, *plug_ins(kind)])}")
    if len(foreign) > 1:
        raise BadInput(f"several packages offer a {kind.what} {name!r}: {_packages(foreign)}; uninstall all but one")
    point, who = foreign[0], _plug_in(kind, name, foreign)
    try:
        entry = point.load()
    except Exception as error:  # code of others can fail in any way
        raise BadInput(f"{who} cannot be imported from {point.value}: {type(error).__name__}: {error}") from error
    if not isinstance(entry, Entry):
        raise BadInput(f"{who}: {point.value} is a {type(entry).__name__}, not an Entry of combo_avs.model.builders")
    return entry


def build_named(kind: Kind, own: Mapping[str, Entry[Model]], name: str, parameters: Mapping[str, Any]) -> Model:
    """Validate `parameters` for the model called `name`, and build it.

    Raises BadInput as `find_entry`, and for every parameter that is wrong, by its key; ComboError if a plug-in fails to
    build.
    """
    entry = find_entry(kind, own, name)
    if name in own:
        return _build(kind, entry, name, parameters)
    who = _plug_in(kind, name, plug_ins(kind)[name])
    try:
        model = _build(kind, entry, name, parameters)
    except ComboError:
        raise
    except Exception as error:
        raise ComboError(f"{who} cannot be built: {type(error).__name__}: {error}") from error
    members = [member for base in reversed(kind.interface.__mro__) for member in vars(base)]
    wanted = [*(member for member in members if not member.startswith("_")), "__call__"]
    if missing := [member for member in wanted if not hasattr(model, member)]:
        kind_of_model, interface = type(model).__name__, kind.interface.__name__
        raise BadInput(f"{who} returned a {kind_of_model} without {', '.join(missing)}: see {interface}")
    return model


def _build(kind: Kind, entry: Entry[Model], name: str, parameters: Mapping[str, Any]) -> Model:
    try:
        config = entry.config.model_validate(dict(parameters))
    except ValidationError as error:
        known = list(entry.config.model_fields)
        problems = [_explain(e, name, known) for e in error.errors()]
        advice = f"Its parameters: {', '.join(known) or 'none'}."
        raise BadInput.listing(f"{kind.what} {name!r}:", problems, advice) from error
    return entry.build(config)


def _explain(error: Any, name: str, known: list[str]) -> str:
    """One validation error in words; name: of the model, for errors that concern no single parameter."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{key}: no such parameter{did_you_mean(key, known)}"
    return f"{key or name}: {error['msg']}"


def _plug_in(kind: Kind, name: str, points: list[EntryPoint]) -> str:
    return f"the {kind.what} {name!r} of the package {_packages(points)}"


def _packages(points: list[EntryPoint]) -> str:
    """Name and version of the packages, such as "my-masks 1.2"."""
    return ", ".join(sorted(f"{point.dist.name} {point.dist.version}" for point in points if point.dist is not None))
