"""What is wrong with a store, from a full read of its files, and mending what can be mended."""

import re
from collections.abc import Iterator

from ...files import is_temporary
from .checksummed_json import unseal
from .location import files_below
from .metadata import CLIP_TABLE, file_damage, metadata_damage, write_arrays_metadata
from .receipts import read_receipt, receipt_path
from .schema import shard_key
from .store import Store


def damaged(store: Store) -> Iterator[tuple[int | None, str | None]]:
    """Every shard, and what is wrong with it (None: nothing), from a full read of all files.

    Then, with None for the shard, what is wrong with metadata, logs, and files that no receipt speaks of. Other files
    at the top of the store, such as notes of people, are not looked at.
    """
    for shard in range(store.num_shards):
        yield shard, shard_damage(store, shard)
    for name, what in {**metadata_damage(store.path, store.metadata_files), **strays(store)}.items():
        yield None, f"{name}: {what}"


def repair(store: Store) -> list[int]:
    """Mend what follows from the store itself, remove files that no receipt speaks of, and drop the receipts of
    damaged shards. Gives the shards to be done again by the job that made them. Hold the store while it runs.

    The clip table of a clip store does not follow from it; running the same import again writes it.
    """
    redo = [shard for shard in range(store.num_shards) if shard_damage(store, shard)]
    store.redo(redo)
    if metadata_damage(store.path, store.metadata_files).keys() - {CLIP_TABLE}:
        store.metadata_files = write_arrays_metadata(store.path, store.attributes, store.metadata_files)
    for name in strays(store):
        (store.path / name).unlink(missing_ok=True)
    return redo


def shard_damage(store: Store, shard: int) -> str | None:
    """What is wrong with a shard; None when all is well."""
    receipt = read_receipt(store.path, shard)
    if receipt is None:
        there = receipt_path(store.path, shard).exists()
        return "damaged receipt" if there else "no valid receipt: never finished"
    if foreign := store.foreign(receipt):
        return foreign
    for name, expected in receipt.files.items():
        if what := file_damage(store.path, name, expected):
            return f"{name}: {what}"
    return None


def strays(store: Store) -> dict[str, str]:
    """Files among arrays and receipts that no receipt speaks of, and logs that are damaged, with what is wrong."""
    shards = range(store.num_shards)
    known = {*store.metadata_files, *(f"_done/{s:06d}.json" for s in shards)}
    known |= {shard_key(name, spec, s) for name, spec in store.specs.items() for s in shards}
    found = {}
    for name in sorted(files_below(store.path).keys() - known):
        folder, _, file = name.rpartition("/")
        if re.fullmatch(r"_log/\d{6,}\.json", name):
            try:
                unseal((store.path / name).read_bytes())
            except ValueError as error:
                found[name] = f"damaged log: {error}"
        elif folder.split("/")[0] in ("_done", *store.specs) and not is_temporary(file):
            found[name] = "no receipt speaks of it"
    return found
