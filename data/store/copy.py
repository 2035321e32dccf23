"""A finished shard from one store into another of the same attributes, byte by byte."""

from ...errors import ComboError
from .location import Location, write_file
from .metadata import checksum
from .receipts import Receipt, drop_receipt, log_path, receipt_path, sync_above
from .store import Store


def copy_shard(source: Store, target: Store, receipt: Receipt) -> None:
    """Copy the files of a shard that `source` has finished, and its receipt last. Hold the target while it runs.

    Raises `ComboError` when a file is not what the receipt says, and `OSError` when the target's device fails.
    """
    assert source.attributes == target.attributes
    drop_receipt(target.path, receipt.shard)
    for name, expected in receipt.files.items():
        if expected is None:
            (target.path / name).unlink(missing_ok=True)
            continue
        content = (source.path / name).read_bytes()
        if checksum(content) != expected:
            raise ComboError(f"{source.path / name} is damaged; run 'combo cache verify' there")
        write_file(target.path / name, content)
        if (target.path / name).read_bytes() != content:
            raise OSError(f"{target.path / name} does not read back as it was written; check the disk")
    sync_above(target.path, [name for name, file in receipt.files.items() if file])
    _copy_log(source.path, target.path, receipt.shard)
    write_file(receipt_path(target.path, receipt.shard), receipt.to_json())


def _copy_log(source: Location, target: Location, shard: int) -> None:
    try:
        content = log_path(source, shard).read_bytes()
    except FileNotFoundError:  # a log is no part of the data
        return
    write_file(log_path(target, shard), content)
