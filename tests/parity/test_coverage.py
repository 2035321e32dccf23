"""No fixture goes unread: a file of a kind that no parity test names is a failure, not silence.

What the tests read is taken from their source: the calls of `fixtures`, `load_json`, `load_arrays` and
`reference_file`. So a claim to cover a kind cannot outlive the test that does.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from golden import FOLDERS, SMALL_SET, reference_folders

ENDINGS = {".npz", ".json", ".wav", ".pkl"}
READERS = {"fixtures": "", "reference_file": "", "load_json": ".json", "load_arrays": ".npz"}  # and what they append


def text_pattern(node: ast.expr) -> str:
    """A string expression as a file name pattern; what only running it could tell is a *."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.BinOp(left, ast.Add(), right):
            return text_pattern(left) + text_pattern(right)
        case ast.JoinedStr(parts):
            return "".join(map(text_pattern, parts))
        case _:
            return "*"


def patterns_read(source: str) -> set[tuple[str, str]]:
    """(kind, pattern) of every file that a test module reads; names that come from `fixtures` add none."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(ast.Name(reader), [ast.Constant(str(kind)), name, *_]) if reader in READERS:
                found.add((kind, text_pattern(name) + READERS[reader]))
    return {(kind, pattern) for kind, pattern in found if pattern.strip("*") not in {"", *ENDINGS}}


def all_patterns() -> set[tuple[str, str]]:
    here = Path(__file__).parent
    modules = [*here.glob("test_*.py"), *here.parent.glob("published_*.py")]
    return set().union(*(patterns_read(m.read_text()) for m in modules))


def unread(kind: str, folder: Path, patterns: set[tuple[str, str]]) -> Iterator[str]:
    """Files of a folder that no test reads. An .npz and the .json beside it are one fixture."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in ENDINGS)
    names = {p.relative_to(folder).as_posix() for p in files}
    read = {n for n in names if any(k == kind and fnmatch(n, pattern) for k, pattern in patterns)}
    stems = {n.rsplit(".", 1)[0] for n in read}
    yield from sorted(n for n in names if n.rsplit(".", 1)[0] not in stems)


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_fixture_is_read(kind: str) -> None:
    for folder in reference_folders(kind):
        assert list(unread(kind, folder, all_patterns())) == []


def test_every_folder_is_known() -> None:
    assert {p.name for p in SMALL_SET.iterdir() if p.is_dir()} - {"__pycache__"} == set(FOLDERS)


def test_a_file_of_a_new_kind_is_found(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    for name in ("known_1.npz", "known_1.json", "other.npz", "other.json", "expected_x.json", "wav/a.wav", "README.md"):
        (tmp_path / name).touch()
    source = """
A = fixtures("audio", "known_*.npz")
def test(name):
    load_json("audio", name), load_json("audio", "expected_" + name), reference_file("combo", f"wav/{name}.wav")
"""
    patterns = patterns_read(source)
    assert patterns == {("audio", "known_*.npz"), ("audio", "expected_*.json"), ("combo", "wav/*.wav")}
    assert list(unread("audio", tmp_path, patterns)) == ["other.json", "other.npz", "wav/a.wav"]
