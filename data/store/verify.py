"""Check a store by a full read of its files, and repair what can be repaired."""

import re
from collections.abc import Iterator

from ...files import is_temporary
from .checksummed_json import load_checksummed
from .location import files_below
from .metadata import CLIP_TABLE, check_file, check_metadata, write_arrays_metadata
from .receipts import read_receipt, receipt_path
from .schema import shard_key
from .store import Store


def check_store(store: Store) -> Iterator[tuple[int | None, str | None]]:
    """Every shard, and what is wrong with it (None: nothing), from a full read of all files.

    Then, with None for the shard, what is wrong with metadata, logs, and files without a receipt.
    """
    for shard in range(store.num_shards):
        yield shard, check_shard(store, shard)
    for name, what in {**check_metadata(store.path, store.metadata_files), **check_strays(store)}.items():
        yield None, f"{name}: {what}"


def check_shard(store: Store, shard: int) -> str | None:
    """What is wrong with a shard; None: nothing."""
    receipt = read_receipt(store.path, shard)
    if receipt is None:
        there = receipt_path(store.path, shard).exists()
        return "damaged receipt" if there else "no valid receipt: never finished"
    if invalid := store.check_receipt(receipt):
        return invalid
    for name, expected in receipt.files.items():
        if what := check_file(store.path, name, expected):
            return f"{name}: {what}"
    return None


def check_strays(store: Store) -> dict[str, str]:
    """Files among arrays and receipts that no receipt lists, and damaged logs, with what is wrong."""
    shards = range(store.num_shards)
    known = {*store.metadata_files, *(f"_done/{s:06d}.json" for s in shards)}
    known |= {shard_key(name, spec, s) for name, spec in store.specs.items() for s in shards}
    found = {}
    for name in sorted(files_below(store.path).keys() - known):
        folder, _, file = name.rpartition("/")
        if re.fullmatch(r"_log/\d{6,}\.json", name):
            try:
                load_checksummed((store.path / name).read_bytes())
            except ValueError as error:
                found[name] = f"damaged log: {error}"
        elif folder.split("/")[0] in ("_done", *store.specs) and not is_temporary(file):
            found[name] = "no receipt lists it"
    return found


def repair(store: Store) -> list[int]:
    """Rewrite damaged metadata, remove stray files, and invalidate damaged shards. Lock the store while it runs.

    Returns the shards for the job that made them to do again. The clip table of a clip store does not follow from the
    store; running the same import again writes it.
    """
    bad = [shard for shard in range(store.num_shards) if check_shard(store, shard)]
    store.invalidate(bad)
    if check_metadata(store.path, store.metadata_files).keys() - {CLIP_TABLE}:
        store.metadata_files = write_arrays_metadata(store.path, store.attributes, store.metadata_files)
    for name in check_strays(store):
        (store.path / name).unlink(missing_ok=True)
    return bad
