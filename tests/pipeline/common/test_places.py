"""Commands write neither into data of the user nor among the files of a store."""

from pathlib import Path

import pytest

from combo_avs.errors import BadInput
from combo_avs.pipeline.common.places import check_no_data, check_not_beside, check_root_apart


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of MS3, in a data set called `set`, in a project; with a link to it."""
    folder = tmp_path / "project" / "set" / "AVSBench_object" / "Multi-sources"
    folder.mkdir(parents=True)
    (folder / "ms3_meta_data.csv").touch()
    (tmp_path / "link").symlink_to(folder)
    return folder


@pytest.mark.parametrize(
    "root",
    ["project/set", "project/set/AVSBench_object", "project/set/AVSBench_object/Multi-sources/cache", "link", "link/a"],
)
def test_roots_in_the_data(data: Path, tmp_path: Path, root: str) -> None:
    with pytest.raises(BadInput, match="is in the data that are imported"):
        check_root_apart(tmp_path / root, data, tmp_path / "project" / "set")


@pytest.mark.parametrize("root", ["project", "project/cache", "project/set/cache", "project/set/AVSBench_object/b"])
def test_roots_beside_the_data(data: Path, tmp_path: Path, root: str) -> None:
    check_root_apart(tmp_path / root, data, tmp_path / "project" / "set")
    check_root_apart("memory://root", data, data)


@pytest.mark.parametrize("store", ["clips.zarr", "audio", "proposals"])
def test_data_in_a_store(tmp_path: Path, store: str) -> None:
    with pytest.raises(BadInput, match=f"{store}, which holds stores"):
        check_root_apart(tmp_path, tmp_path / store / "masks")
    check_root_apart(tmp_path, tmp_path / "masks")


def test_the_folder_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(BadInput, match=r"is the folder of a\.mp4"):
            check_not_beside(out, [tmp_path / "b" / "c.mp4", tmp_path / "a.mp4"])
    check_not_beside(tmp_path / "out", [tmp_path / "a.mp4"])


@pytest.mark.parametrize("out", [".", "project/set", "link", "link/runs/a"])
def test_results_in_data(data: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "clips.zarr").mkdir()
    with pytest.raises(BadInput, match="is a cache root" if out == "." else "is in a data set, or holds one"):
        check_no_data(tmp_path / out)


def test_results_in_a_store(tmp_path: Path) -> None:
    (tmp_path / "clips.zarr").mkdir()
    (tmp_path / "clips.zarr" / "zarr.json").touch()
    with pytest.raises(BadInput, match="is in the store"):
        check_no_data(tmp_path / "clips.zarr" / "runs" / "a")


def test_results_beside_data(data: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.zarr").mkdir()
    (tmp_path / "metadata.csv").touch()  # any project may have one
    check_no_data(tmp_path / "runs" / "a")
