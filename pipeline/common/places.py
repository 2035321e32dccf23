"""Where a command may write: never into data of the user, nor among the files of a store."""

from collections.abc import Iterable
from pathlib import Path

from ...data.sources.avsbench.layout import SUBSETS
from ...data.store.location import Location, location
from ...errors import BadInput

STORES = ("clips.zarr", "audio", "proposals")  # what the commands write into a cache root


def check_root_apart(root: str | Location, data: Path, top: Path | None = None) -> None:
    """Raise `BadInput` when stores in a cache root would lie in a folder of the user's data, or the data in a store.

    data: the folder that holds the files. top: the folder around it that the user named; None: the same. A root may lie
    in `top`, beside the folders that lead to the data.
    """
    if not isinstance(found := location(root), Path):
        return
    target, data = found.resolve(), data.resolve()
    between = top is not None and data.is_relative_to(target) and target.is_relative_to(top.resolve())
    if target.is_relative_to(data) or between:
        raise BadInput(f"{root} is in the data that are imported ({data}); name a folder outside of them as ROOT")
    if holder := next((name for name in STORES if data.is_relative_to(target / name)), None):
        raise BadInput(f"{data} is in {found / holder}, which holds stores; move the data out of it")


def check_not_beside(out: str | Location, files: Iterable[Path]) -> None:
    """Raise `BadInput` when a folder to write into is that of one of the user's files."""
    if isinstance(found := location(out), Path):
        for file in files:
            if file.resolve().parent == found.resolve():
                raise BadInput(f"{out} is the folder of {file.name}; name another folder, for example {found / 'out'}")


def check_no_data(out: Path) -> None:
    """Raise `BadInput` when `out` is a cache root, AVSBench, or inside a store or a folder of AVSBench."""
    folder = out.resolve()
    if (folder / "clips.zarr").exists():
        raise BadInput(f"{out} is a cache root; name another folder, for example {out / 'out'}")
    if inside := next((p for p in (folder, *folder.parents) if (p / "zarr.json").exists()), None):
        raise BadInput(f"{out} is in the store {inside}; name a folder outside of it")
    for subset in SUBSETS.values():
        places = [folder.joinpath(*subset.folder[k:]) for k in range(len(subset.folder))]
        listed = (place for place in (*places, folder, *folder.parents) if (place / subset.list_name).is_file())
        if any(subset.list_name != "metadata.csv" or (place / "label2idx.json").is_file() for place in listed):
            raise BadInput(f"{out} is in a data set, or holds one ({subset.list_name}); name a folder outside of it")
