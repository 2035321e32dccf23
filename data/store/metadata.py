"""The metadata of a store: small files that follow from its attributes, and the group's zarr.json, which comes last.

A store exists as soon as its zarr.json does; a kill before that leaves files that the next start replaces with equal
ones. zarr.json is checksummed, and lists size and sha256 of the other metadata files, so that damage to any is found.
"""

import hashlib
import json

from ...errors import BadInput
from .attributes import SCHEMA_VERSION, StoreAttributes, parse_attributes
from .checksummed_json import digest, dump_checksummed, load_checksummed
from .clip_table import ClipTable
from .location import Location, names_in, write_file
from .schema import array_metadata, array_specs

CLIP_TABLE = "clips.parquet"

Checksums = dict[str, tuple[int, str] | None]
"""(bytes, sha256) of files by their name relative to the store; None: there must be no such file."""


def checksum(content: bytes) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()


def identity(attributes: StoreAttributes) -> str:
    """A short fingerprint that receipts carry, so that no shard of another store passes for one of this."""
    return digest(attributes.to_json())[:16]


def write_metadata(path: Location, attributes: StoreAttributes, table: ClipTable | None) -> None:
    """Write all metadata of a store with these attributes; no data."""
    files: Checksums = {}
    if table is not None:
        content = table.to_bytes()
        write_file(path / CLIP_TABLE, content)
        files[CLIP_TABLE] = checksum(content)
    write_arrays_metadata(path, attributes, files)


def write_arrays_metadata(path: Location, attributes: StoreAttributes, others: Checksums) -> Checksums:
    """Write zarr.json of every array, and then the group's. Returns the checksums of all metadata files.

    others: the checksums of those that are not zarr.json.
    """
    arrays = array_metadata(array_specs(attributes), attributes.frames, attributes.shard_frames)
    for name, content in arrays.items():
        write_file(path / name, content)
    files = {**others, **{name: checksum(content) for name, content in arrays.items()}}
    stored = {**attributes.to_json(), "checks": {"files": files, "seal": ""}}
    write_file(path / "zarr.json", dump_checksummed({"zarr_format": 3, "node_type": "group", "attributes": stored}))
    return files


def read_metadata(path: Location) -> tuple[StoreAttributes, Checksums]:
    """Attributes of a store, and the checksums of its other metadata files.

    Raises `BadInput` when there is no store, or one of another schema version, or its zarr.json is damaged.
    """
    try:
        content = (path / "zarr.json").read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: not a store of this package ({type(error).__name__}: {error})") from error
    try:
        version = json.loads(content)["attributes"]["schema"]
        if version != SCHEMA_VERSION:
            advice = "Make it again with this package, or use the package version that made it"
            raise BadInput(f"{path}: schema version {version}; this package reads version {SCHEMA_VERSION}. {advice}")
        values = load_checksummed(content)["attributes"]
        checks = values.pop("checks")
        files: Checksums = {name: (int(size), str(sha)) for name, (size, sha) in checks["files"].items()}
        attributes = parse_attributes(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"not a store of this package, or its zarr.json is damaged ({type(error).__name__}: {error})"
        raise BadInput(f"{path}: {what}; the command that made it writes zarr.json again and keeps the data") from error
    return attributes, files


def check_metadata(path: Location, files: Checksums) -> dict[str, str]:
    """What is wrong with the metadata files of a store, by name."""
    return {name: what for name, expected in files.items() if (what := check_file(path, name, expected))}


def check_file(path: Location, name: str, expected: tuple[int, str] | None) -> str | None:
    """What is wrong with one file of a store, from a full read of it; None: nothing."""
    try:
        size, sha = checksum((path / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None if expected is None else "missing"
    except OSError as error:
        return f"cannot be read ({error})"
    if expected is None:
        return "should not exist"
    if size != expected[0]:
        return f"{size} bytes, not {expected[0]}"
    return None if sha == expected[1] else "contents changed (sha256 differs)"


def is_begun(path: Location) -> bool:
    """Whether there is a store at `path`, whole or damaged; what a killed first start leaves is none."""
    return (path / "zarr.json").exists() or bool(names_in(path / "_done"))
