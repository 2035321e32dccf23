"""What is wrong with a store, from a full read of its files."""

import re
from typing import TYPE_CHECKING

from .location import files_below, is_temporary
from .metadata import file_damage
from .receipts import read_receipt, receipt_path
from .schema import shard_key
from .sealed import unseal

if TYPE_CHECKING:
    from .store import Store


def shard_damage(store: "Store", shard: int) -> str | None:
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


def strays(store: "Store") -> dict[str, str]:
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
