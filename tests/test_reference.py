"""The golden fixtures themselves: none vanished, none changed, and the small set notices small mistakes, too."""

import hashlib
import json
from pathlib import Path

import pytest
from golden import SMALL_SET, whole_set

MANIFEST = json.loads((SMALL_SET / "manifest.json").read_text())
ONLY_IN_WHOLE = sorted(MANIFEST["whole"].keys() - MANIFEST["small"].keys())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_small_set_is_what_its_manifest_says() -> None:
    files = [p for folder in SMALL_SET.iterdir() if folder.is_dir() for p in folder.rglob("*") if p.is_file()]
    found = {p.relative_to(SMALL_SET).as_posix(): sha256(p) for p in files if "__pycache__" not in p.parts}
    assert found == MANIFEST["small"]


def test_the_small_set_stays_small() -> None:
    assert sum((SMALL_SET / name).stat().st_size for name in MANIFEST["small"]) < 16e6


@pytest.mark.reference
@pytest.mark.parametrize("name", ONLY_IN_WHOLE)
def test_fixtures_of_the_whole_set(name: str) -> None:
    """Another set, with other salts and photos, has files of other names: it answers for itself."""
    folder = whole_set()
    assert folder is not None
    key_list = folder / "sam" / "image_A.png"
    if key_list.is_file() and sha256(key_list) == MANIFEST["whole"]["sam/image_A.png"]:
        assert sha256(folder / name) == MANIFEST["whole"][name]
