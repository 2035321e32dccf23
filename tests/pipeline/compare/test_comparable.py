"""Which numbers may not stand side by side, and that tables and pages say so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_network import TINY

from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.pipeline.compare.comparable import (
    DataFacts,
    Scoring,
    Subject,
    cautions,
    data_facts,
    describe,
)
from combo_avs.pipeline.compare.grid import Comparison, compare
from combo_avs.pipeline.compare.table import read_table
from combo_avs.pipeline.compare.variants import plan_variants
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.runs.data import DataNames, open_data

FACTS = DataFacts("set-a 0123456789ab", (224, 224), (), (), ())
ONE = Subject("one", 150, 150, "best", Scoring("test", "right", "published"), FACTS)


def other(**changes: Any) -> Subject:
    """ONE under another name, with changes to it, its scoring or its facts."""
    scoring = {key: value for key, value in changes.items() if key in vars(ONE.scoring)}
    facts = {key: value for key, value in changes.items() if key in vars(FACTS)}
    own = {key: value for key, value in changes.items() if key not in scoring | facts}
    return replace(ONE, name="two", scoring=replace(ONE.scoring, **scoring), facts=replace(FACTS, **facts), **own)


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, []),
        ({"step": 20, "steps": 20}, ["trained for different numbers of steps: 150 (one); 20 (two)"]),
        ({"step": None}, ["trained for different numbers of steps: 150 (one); not trained here (two)"]),
        (
            {"step": 20},
            [
                "trained for different numbers of steps: 150 (one); 20 (two)",
                "training is not finished: at step 20 of 150 (two)",
            ],
        ),
        (
            {"data": "set-b 0123456789ab"},
            ["trained and scored on different data: set-a 0123456789ab (one); set-b 0123456789ab (two)"],
        ),
        ({"size": (224, 64)}, ["frames of different sizes: 224 x 224 (one); 224 x 64 (two)"]),
        ({"not_trained_on": ("b", "a")}, ["trained on different clips: all (one); without a, b (two)"]),
        (
            {"not_scored": tuple("fedcba")},
            ["scored on different clips: all (one); without a, b, c, d and 2 more (two)"],
        ),
        ({"not_scored": tuple("dcba")}, ["scored on different clips: all (one); without a, b, c, d (two)"]),
        ({"split": "val"}, ["scored on different splits: test (one); val (two)"]),
        ({"sound": "noise"}, ["scored with different sounds: right (one); noise (two)"]),
        ({"protocol": "hard"}, ["scored by different protocols: published (one); hard (two)"]),
        ({"weights": "last"}, ["scored with different weights: best (one); last (two)"]),
        ({"untrained": ("untrained-sam-1",)}, ["cache of an untrained model: untrained-sam-1 (two)"]),
    ],
)
def test_every_reason_has_a_sentence(changes: dict[str, Any], sentences: list[str]) -> None:
    assert cautions([ONE, ONE, other(**changes)]) == sentences


def test_what_all_share_is_no_reason_but_unfinished_and_untrained_are_said_of_one_alone() -> None:
    strange = other(step=20, untrained=("u",), weights="last", split="val", not_scored=("a",))
    assert cautions([strange, replace(strange, name="three")]) == [
        "training is not finished: at step 20 of 150 (two, three)",
        "cache of an untrained model: u (two, three)",
    ]
    assert cautions([]) == []


def test_json_and_back() -> None:
    strange = other(step=None, untrained=("u",), not_scored=("a", "b"))
    assert Subject.of_json(json.loads(json.dumps(strange.to_json()))) == strange
    with pytest.raises(ValueError, match="steps"):
        Subject.of_json({"name": "x"})


@pytest.mark.parametrize(
    ("name", "parameters", "untrained"),
    [
        ("sam", {}, False),
        ("untrained-sam", {}, True),
        ("sam", {"untrained": True}, True),
        ("x", {"untrained": False}, False),
    ],
)
def test_untrained_makers_are_known(name: str, parameters: dict[str, bool], untrained: bool) -> None:
    assert Provenance(name, "1", parameters).untrained is untrained


def test_facts_name_the_clips_that_a_cache_has_quarantined(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(DataNames(prepared, "felzenszwalb", "logmel"))
    clips = ClipStore(prepared)
    test, train = (clips.table[int(clips.table.rows(split)[0])].id for split in ("test", "train"))
    assert data_facts(data, "test") == DataFacts(f"synthetic-ms3 {clips.fingerprint()[:12]}", (64, 64), (), (), ())
    monkeypatch.setattr(Cache, "quarantined", lambda self: dict.fromkeys((test, train), "broke"))
    facts = data_facts(data, "test")
    assert (facts.not_scored, facts.not_trained_on) == ((test,), (train,))


def test_a_comparison_of_steps_says_so_in_text_json_and_markdown(prepared: Path, tmp_path: Path) -> None:
    variants = plan_variants(["steps=1,2"], "felzenszwalb", "logmel")
    settings = [*TINY, "train.device=cpu"]
    table = compare(Comparison(prepared, "tiny", variants, [0], settings), tmp_path)
    why = "trained for different numbers of steps: 1 (steps=1); 2 (steps=2)"
    assert f"\n\nCaution, {why}" in str(table)
    assert f"\n\nCaution, {why}\n" in (tmp_path / "compare.md").read_text()
    stored = read_table(tmp_path / "compare.json")
    assert stored["cautions"] == [why]
    assert stored["subjects"] == list(table.subjects)
    assert [(s.name, s.step, s.steps, s.weights) for s in table.subjects] == [
        ("steps=1", 1, 1, "best"),
        ("steps=2", 2, 2, "best"),
    ]
    run, longer = tmp_path / "steps=2" / "seed-0", load_config("tiny", [*settings, "train.steps=9"])

    def stands() -> tuple[int | None, int, str]:
        found = describe("x", run, longer, ONE.scoring, FACTS)
        return found.step, found.steps, found.weights

    kept = shutil.move(run / "checkpoints", tmp_path / "kept")
    assert stands() == (2, 9, "best")  # by the best weights themselves
    shutil.rmtree(run / "best")
    assert stands() == (None, 9, "last")
    shutil.move(kept, run / "checkpoints")
    assert stands() == (2, 9, "last")
