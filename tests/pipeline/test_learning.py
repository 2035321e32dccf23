"""The learning study's page: what it says follows from the numbers, and a model that is deaf fails it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from combo_avs.errors import ComboError
from combo_avs.pipeline.compare.table import Row, Table
from combo_avs.pipeline.compare.variants import RECIPE, plan_variants


@pytest.fixture(scope="module")
def learning() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "learning.py"
    spec = importlib.util.spec_from_file_location("learning_study", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(variant: str, sound: str, *scores: float) -> Row:
    return Row(variant, sound, dict(enumerate(scores)), dict(enumerate(scores)))


def table(learning: ModuleType, swapped: float) -> Table:
    rows = [row(RECIPE, "right", 60.0, 61.0, 62.0), row(RECIPE, "swapped", 10.0, 10.0, swapped)]
    rows += [row(RECIPE, sound, 20.0, 20.0, 20.0) for sound in ("silent", "noise")]
    rows += [row(name, "right", 50.0, 52.0, 54.0) for name in learning.OVERS]
    return Table("synthetic-ms3", "tiny", (), "test", "published", (0, 1, 2), tuple(rows), {})


def test_the_page_has_every_variant_and_sound(learning: ModuleType) -> None:
    page = learning.page({"ms3": table(learning, swapped=10.0)})
    assert "| right | 61.0 ± 1.0 (3) |" in page
    assert "**ms3**: right sound beats another clip's by 51 points. Worse than the full model: " in page
    for sound in learning.SOUNDS:
        assert f"| {sound} |" in page
    for name in learning.OVERS:
        assert f"`{name}` | 52.0 ± 2.0 (3) | 52.0 ± 2.0 (3) | -9.0 ± 1.0 | worse |" in page


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((50.0, 40.0, 30.0), ("-20.0 ± 10.0", "worse")),
        ((70.0, 80.0, 90.0), ("+20.0 ± 10.0", "better")),
        ((50.0, 60.0, 70.0), ("+0.0 ± 10.0", "open")),
        ((50.0,), ("-", "-")),
    ],
)
def test_differences_go_by_seed(learning: ModuleType, scores: tuple[float, ...], expected: tuple[str, str]) -> None:
    assert learning.difference(row(RECIPE, "right", 60.0, 60.0, 60.0), row("fusion=none", "right", *scores)) == expected


def test_the_study_fails_when_one_seed_does_not_need_the_sound(learning: ModuleType) -> None:
    learning.check({"ms3": table(learning, swapped=10.0)})
    with pytest.raises(ComboError, match=r"ms3, seed 2: M_J 62\.0 with the right sound, 50\.0"):
        learning.check({"ms3": table(learning, swapped=50.0)})


def test_what_is_compared_is_what_the_page_names(learning: ModuleType) -> None:
    variants = plan_variants(list(learning.grouped_overs()), learning.PROPOSALS, learning.AUDIO, one_by_one=True)
    assert [v.name for v in variants] == [RECIPE, *learning.OVERS]
