"""The attributes of a store, stored in its zarr.json: what it holds and, for a cache, where its data come from.

Fingerprints and the names of caches follow from `to_json`, so its keys and values are part of the format.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from ..clip import CLIP_LENGTHS

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Folding:
    """How masks are folded into Maskiges: at most so many per frame, and with colours kept over a clip or not."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    max_masks: int
    temporal: bool


@dataclass(frozen=True)
class Provenance:
    """The generator or encoder behind a cache. All of it goes into the cache's fingerprint.

    parameters: JSON values. weights_sha256: None if there are no weights. maskige: None if the generator's masks are
    not folded by this package, and for audio.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: str
    version: str
    parameters: dict[str, Any]
    weights_sha256: str | None = None
    maskige: Folding | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Provenance":
        """Raises `KeyError`, `TypeError` or `ValueError` for what `to_json` does not return."""
        folding = {"maskige": Folding(**values["maskige"])} if "maskige" in values else {}
        return cls(**{**values, **folding})

    def to_json(self) -> dict[str, Any]:
        folding = {} if self.maskige is None else {"maskige": vars(self.maskige)}
        own = {key: value for key, value in vars(self).items() if key != "maskige"}
        return dict(sorted({**own, **folding}.items()))

    @property
    def untrained(self) -> bool:
        """Whether it has random weights."""
        return self.name.startswith("untrained-") or bool(self.parameters.get("untrained"))

    def differing(self, other: "Provenance") -> list[str]:
        """Names of the fields in which `other` differs."""
        return [name for name, value in vars(self).items() if getattr(other, name) != value]


@dataclass(frozen=True)
class _Attributes:
    frames: int  # F
    shard_frames: int

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """As stored; tuples are lists."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        return {"schema": SCHEMA_VERSION, "kind": self.kind, **values}


@dataclass(frozen=True)
class ClipAttributes(_Attributes):
    """Of clips.zarr. The fields mean what those of `ClipSource` mean."""

    kind: ClassVar = "clips"

    dataset: str  # name of the source
    classes: tuple[str, ...]
    size: tuple[int, int]  # (H, W)
    clips: int  # N
    plan_sha256: str  # digest of the clip table
    short_audio: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class CacheAttributes(_Attributes):
    """Of a cache: what made it, and from which clips."""

    provenance: Provenance
    clips_fingerprint: str

    def to_json(self) -> dict[str, Any]:
        values = super().to_json()
        del values["provenance"]
        return {**values, "maker": self.provenance.to_json()}


@dataclass(frozen=True)
class ProposalAttributes(CacheAttributes):
    kind: ClassVar = "proposals"

    size: tuple[int, int]  # (H, W)


@dataclass(frozen=True)
class AudioAttributes(CacheAttributes):
    """dim: D of the features. probes: the control features of "silence" and "noise", [L][D]."""

    kind: ClassVar = "audio"

    dim: int
    probes: dict[str, list[list[float]]]


StoreAttributes = ClipAttributes | ProposalAttributes | AudioAttributes
_KINDS = {kind.kind: kind for kind in (ClipAttributes, ProposalAttributes, AudioAttributes)}


def parse_attributes(values: dict[str, Any]) -> StoreAttributes:
    """The inverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for attributes of no store."""
    fields = {k: v for k, v in values.items() if k not in ("schema", "kind")}
    fields |= {name: tuple(fields[name]) for name in ("size", "classes") if name in fields}
    if "maker" in fields:
        fields["provenance"] = Provenance.from_json(fields.pop("maker"))
    attributes = _KINDS[values["kind"]](**fields)
    frames, shard_frames = attributes.frames, attributes.shard_frames
    if min(frames, shard_frames) <= 0 or shard_frames % max(CLIP_LENGTHS):
        raise ValueError(f"{frames} frames in shards of {shard_frames}")
    if attributes.to_json() != values:
        raise ValueError("attributes that no version of this package writes")
    return attributes
