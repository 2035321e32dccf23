"""A cache root: make and find its stores.

ROOT/clips.zarr                         frames, labels, sound, clip table
ROOT/proposals/<generator>-<fp>.zarr    masks and Maskiges of one generator
ROOT/audio/<encoder>-<fp>.zarr          features of one audio encoder
"""

from ...errors import BadInput
from ..clip import CLIP_LENGTHS, ClipSource
from .attributes import (
    SCHEMA_VERSION,
    AudioAttributes,
    CacheAttributes,
    ClipAttributes,
    ProposalAttributes,
    Provenance,
    StoreAttributes,
)
from .checksummed_json import digest
from .clip_table import ClipTable, plan_order
from .location import Location, location, names_in, reaching
from .locks import lock_metadata
from .metadata import check_metadata, identity, is_begun, read_metadata, write_metadata
from .receipts import Receipt, read_receipt
from .store import Cache, ClipStore

CACHE_KINDS = ("proposals", "audio")
AGREEMENT = "_log/agreement.json"  # of a cache: how far its approximate setting is from the exact one


def create_clips(root: str | Location, source: ClipSource, shard_frames: int) -> ClipStore:
    """Open the clip store for the clips of `source`, making it first when there is none: no data yet.

    Raises `BadInput` when `root` holds other clips.
    """
    if shard_frames <= 0 or shard_frames % max(CLIP_LENGTHS):
        raise BadInput(f"shard_frames must be a positive multiple of {max(CLIP_LENGTHS)}, not {shard_frames}")
    table = ClipTable.of(plan_order(source.clips))
    if not len(table):
        raise BadInput(f"{source.name}: no clips to import")
    attributes = ClipAttributes(
        dataset=source.name,
        classes=tuple(source.classes),
        size=source.size,
        clips=len(table),
        frames=table.total_frames,
        shard_frames=shard_frames,
        plan_sha256=table.digest(),
        short_audio=source.short_audio,
        parameters=source.parameters,
    )
    path = location(root) / "clips.zarr"
    with reaching(path):
        create_store(path, attributes, table)
    return ClipStore(root)


def create_store(path: Location, attributes: StoreAttributes, table: ClipTable | None) -> None:
    """Write the metadata of a store at `path` where they are missing or damaged; keep the data.

    Raises `BadInput` when a store with other attributes is there.
    """
    with lock_metadata(path):
        try:
            there, files = read_metadata(path)
        except BadInput as error:
            _require_own_receipts(path, attributes, error)
            write_metadata(path, attributes, table)
            return
        if there != attributes:
            ours, theirs = attributes.to_json(), there.to_json()
            differing = ", ".join(sorted(k for k in ours if ours[k] != theirs.get(k)))
            what = "clips" if attributes.kind == "clips" else "data"
            raise BadInput(f"{path} holds other {what} (different: {differing}); name another root or remove it")
        if check_metadata(path, files):
            write_metadata(path, attributes, table)


def _require_own_receipts(path: Location, attributes: StoreAttributes, error: BadInput) -> None:
    """Refuse to write over the finished shards of another store whose own metadata cannot be read."""
    for name in names_in(path / "_done"):
        number = name.removesuffix(".json")
        receipt = read_receipt(path, int(number)) if number.isdecimal() else None
        if receipt is not None and receipt.store != identity(attributes):
            raise BadInput(f"{error}; its shards are not of these clips, so name another root or remove it") from error


def proposal_attributes(clips: ClipStore, provenance: Provenance) -> ProposalAttributes:
    """Those of a proposals cache made from `clips`. Raises `BadInput` when the clips are not all imported."""
    return ProposalAttributes(clips.frames, clips.shard_frames, provenance, clips.fingerprint(), clips.size)


def audio_attributes(
    clips: ClipStore, provenance: Provenance, dim: int, probes: dict[str, list[list[float]]]
) -> AudioAttributes:
    """Those of an audio cache made from `clips`. Raises `BadInput` when the clips are not all imported."""
    return AudioAttributes(clips.frames, clips.shard_frames, provenance, clips.fingerprint(), dim, probes)


def cache_path(clips: ClipStore, attributes: CacheAttributes) -> Location:
    """Where the cache with these attributes is or will be: its name follows from all that changes its data."""
    return clips.path.parent / attributes.kind / f"{cache_name(attributes)}.zarr"


def cache_name(attributes: CacheAttributes) -> str:
    """For example felzenszwalb-1a2b3c4d5e6f."""
    provenance = attributes.provenance
    made = digest([SCHEMA_VERSION, attributes.kind, provenance.to_json(), attributes.clips_fingerprint])
    return f"{provenance.name}-{made[:12]}"


def create_proposals(clips: ClipStore, provenance: Provenance) -> Cache:
    return create_cache(clips, proposal_attributes(clips, provenance))


def create_cache(clips: ClipStore, attributes: ProposalAttributes | AudioAttributes) -> Cache:
    """Open the cache at `cache_path`, making it first when there is none: no data yet."""
    path = cache_path(clips, attributes)
    create_store(path, attributes, None)
    return Cache(path)


def done_before(path: Location) -> dict[int, Receipt]:
    """Receipts of the finished shards of the cache at `path`; none when its metadata are missing or damaged."""
    try:
        return Cache(path).receipts()
    except BadInput:
        return {}


def open_cache(clips: ClipStore, kind: str, name: str) -> Cache:
    """The cache called `name`: in full, or by its generator or encoder when these clips have only one cache of it.

    Raises `BadInput` when there is none, more than one, or it was made from other clips.
    """
    root = clips.path.parent
    folder = root / kind
    there = [p.stem for p in cache_paths(root) if p.parent == folder]
    matching = [n for n in there if n == name or n.rsplit("-", 1)[0] == name]
    imported = name.startswith("official-maskiges")
    make = f"make it with 'combo {f'import maskiges {root}' if imported else f'precompute {root} --{kind} {name}'}'"
    if not matching:
        raise BadInput(f"no {kind} cache {name!r} in {folder}, which holds {there or 'none'}; {make}")
    caches = [Cache(folder / f"{n}.zarr") for n in matching]
    fresh = [c for c in caches if c.clips_fingerprint == clips.fingerprint()]
    if not fresh:
        raise BadInput(f"{kind} cache {', '.join(matching)} was made from other clips than {clips.path} holds; {make}")
    if len(fresh) > 1:
        raise BadInput(f"{kind} {name!r} is not one cache; name one of {[c.name for c in fresh]}")
    return fresh[0]


def cache_paths(root: str | Location) -> list[Location]:
    """Where the caches of a root are, whole or damaged, in a stable order."""
    folders = [location(root) / kind for kind in CACHE_KINDS]
    found = [folder / name for folder in folders for name in names_in(folder) if name.endswith(".zarr")]
    return [path for path in found if is_begun(path)]


def list_caches(root: str | Location) -> list[Cache]:
    """All caches of a root, in a stable order."""
    return [Cache(path) for path in cache_paths(root)]
