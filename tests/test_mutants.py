"""The tables of mutants are well formed, and their runner tells killed from surviving. `make mutants` runs them."""

from pathlib import Path

import pytest
from mutants.__main__ import PACKAGE, TABLES
from mutants.runner import Broken, Outcome, check_unchanged, copies, judge
from mutants.table import Mutant, edits, problems


def test_every_edit_of_the_tables_fits_the_code() -> None:
    assert problems([mutant for room in TABLES.values() for mutant in room], PACKAGE) == []


# What computes numbers that are trained on, cached or printed.
COMPUTES = {
    "data": ("audio", "augment", "dataset", "resize", "masks", "store/receipts", "store/verify"),
    "model": (
        *("combo", "backbones", "siam_encoder", "bilateral_fusion", "pixel_decoder", "decoder", "position_encoding"),
        *("deformable_attention", "matcher", "criterion", "inference", "random_numbers", "foundation/mask_candidates"),
    ),
    "pipeline": ("evaluate/metrics", "precompute/masks", "train/step", "train/loop", "train/optim"),
}


def test_everything_that_computes_has_mutants() -> None:
    mutants = [mutant for table in TABLES.values() for mutant in table]
    assert len(mutants) >= 200
    files = {f"{room}/{module}.py" for room, modules in COMPUTES.items() for module in modules}
    assert files - {mutant.file for mutant in mutants} == set()


@pytest.mark.parametrize(
    ("table", "room"),
    [("clips", "data"), ("data", "data"), ("frozen", "model"), ("losses", "model"), ("model", "model")],
)
def test_tables_speak_of_their_own_room(table: str, room: str) -> None:
    assert {mutant.file.split("/")[0] for mutant in TABLES[table]} == {room}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one function and one test of it."""
    root = tmp_path / "combo_avs"
    (root / "tests").mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "tests" / "test_sums.py").write_text(
        "from combo_avs.sums import add\n\ndef test_add():\n    assert add(2, 2) == 4\n"
    )
    return root


def test_what_is_wrong_with_a_table(package: Path) -> None:
    tests = "tests/test_sums.py"
    table = edits("sums.py", tests, ("twice", "a", "b"), ("twice", "a + c", "a"), ("syntax", "a + b", "a +"))
    table += edits("sums.py", tests, ("nothing", "a + b", "(a + b)"), ("right", "a + b", "a - b"))
    table += edits("gone.py", "tests/test_gone.py", ("gone", "a", "b"))
    found = problems(table, package)
    assert [problem.split(":")[0] for problem in found] == [
        "twice",
        "twice",
        "twice",
        "syntax",
        *["nothing"],
        *["gone"] * 2,
    ]


def test_killed_and_surviving(package: Path) -> None:
    table = edits(
        "sums.py",
        "tests/test_sums.py",
        ("difference", "a + b", "a - b"),
        ("product", "a + b", "a * b"),
        ("not imported", "def add", "def sub"),
    )
    reported: list[Outcome] = []
    with copies(package, 2) as places:
        check_unchanged(places[0], table, jobs=1)
        outcomes = judge(table, places, reported.append)
        assert {(copy / "sums.py").read_text() for copy in places} == {(package / "sums.py").read_text()}
    assert reported == outcomes
    assert {o.mutant.name: o.killer for o in outcomes} == {
        "difference": "tests/test_sums.py::test_add",
        "product": None,
        "not imported": "tests/test_sums.py",
    }


def test_tests_that_fail_without_an_edit_judge_nothing(package: Path) -> None:
    (package / "sums.py").write_text("def add(a, b):\n    return a - b\n")
    mutant = Mutant("sum", "sums.py", "a - b", "a + b", ("tests/test_sums.py",))
    with copies(package, 1) as places, pytest.raises(Broken, match="without any edit"):
        check_unchanged(places[0], [mutant], jobs=1)


def test_a_mutant_that_hangs_is_killed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutants.runner.HANGS", 1)
    mutant = Mutant("loop", "sums.py", "return a + b", "\n    while True: pass", ("tests/test_sums.py",))
    with copies(package, 1) as places:
        (outcome,) = judge([mutant], places, lambda _: None)
    assert outcome.killer == "tests/test_sums.py (hangs)"
