"""Compare: what is compared, that nothing is done twice, what is refused before the first step, and the table."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_network import TINY

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.commit import commit_shard
from combo_avs.data.store.root import audio_attributes, create_cache, create_proposals
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.errors import DONE, BadInput, Interrupted
from combo_avs.pipeline.common.statistics import Mean, PairedTest
from combo_avs.pipeline.compare import grid
from combo_avs.pipeline.compare.grid import Comparison, compare, compare_all, folders_of, tabulate
from combo_avs.pipeline.compare.table import Row, Table, paired, read_table, spread
from combo_avs.pipeline.compare.variants import RECIPE, parse_seeds, parse_sounds, plan_variants
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.report.targets import find_targets
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_run

SMALL = [*TINY, "train.steps=1", "train.device=cpu"]

Compare = Callable[..., Table]


@pytest.fixture
def small(prepared: Path, tmp_path: Path) -> Compare:
    """Compares with a small network, one step and one seed, into tmp_path / "out"; `table`: only tabulates."""

    def run(overs: list[str], seeds: list[int], *, table: bool = False, **changes: Any) -> Table:
        variants = plan_variants(overs, "felzenszwalb", "logmel")
        comparison = Comparison(prepared, "tiny", variants, seeds, **{"overrides": SMALL, **changes})
        return (tabulate if table else compare)(comparison, tmp_path / "out")

    return run


def trained(monkeypatch: pytest.MonkeyPatch, break_at: int | None = None) -> list[str]:
    """Records the run folders that are trained from now on; `break_at`: the one that is stopped."""
    folders: list[str] = []
    train = grid.train

    def recording(names: DataNames, config: Config, out: Path, **options: Any) -> object:
        folders.append(f"{out.parent.name}/{out.name}")
        if len(folders) - 1 == break_at:
            raise Interrupted("stopped after step 0; resume with --resume auto")
        return train(names, config, out, **options)

    monkeypatch.setattr(grid, "train", recording)
    return folders


def names(overs: list[str], one_by_one: bool = False) -> list[str]:
    return [v.name for v in plan_variants(overs, "felzenszwalb", "logmel", one_by_one=one_by_one)]


class TestVariants:
    def test_several_overs_give_every_combination(self) -> None:
        assert names(["fusion=none,bilateral", "siam=none,separate"]) == [
            "fusion=none,siam=none",
            "fusion=none,siam=separate",
            "fusion=bilateral,siam=none",
            "fusion=bilateral,siam=separate",
        ]

    def test_one_by_one_changes_one_thing_at_a_time(self) -> None:
        overs = ["fusion=none,visual", "proposals=none"]
        assert names(overs, one_by_one=True) == [RECIPE, "fusion=none", "fusion=visual", "proposals=none"]

    def test_nothing_to_vary_is_the_recipe_alone(self) -> None:
        assert names([]) == [RECIPE]

    def test_short_names_and_caches(self) -> None:
        (variant,) = plan_variants(["fusion=none", "proposals=mine", "augment.scale=[0.5, 1]"], None, "vggish")
        assert (variant.proposals, variant.audio) == ("mine", "vggish")
        assert variant.overrides == ("model.fusion=none", "augment.scale=[0.5, 1]")
        assert "/" not in variant.folder
        assert " " not in variant.folder

    def test_settings_along_with_a_value(self) -> None:
        overs = ["backbone=r50+backbone_weights=a/r.pth+lr=1e+3,tiny", "proposals=mine+audio=vggish,none"]
        first, second, third, _ = plan_variants(overs, None, "logmel")
        assert (first.name, first.proposals, first.audio) == ("backbone=r50,proposals=mine", "mine", "vggish")
        assert first.overrides == ("model.backbone=r50", "train.backbone_weights=a/r.pth", "train.lr=1e+3")
        assert (second.name, second.audio) == ("backbone=r50,proposals=none", "logmel")
        assert (third.overrides, third.audio) == (("model.backbone=tiny",), "vggish")

    @pytest.mark.parametrize(
        ("overs", "message"),
        [
            (["fusion=none+lr=1", "lr=2"], "fusion=none,lr=2 sets train.lr twice"),
            (["fusion=none+lr=1,none+lr=2"], "two variants would be called 'fusion=none'"),
            (["fusion=none+fussion=1"], "fussion: is no setting"),
            (["fusion"], "KEY=VALUE"),
            (["fusion=none,"], "KEY=VALUE"),
            (["=none"], "KEY=VALUE"),
            (["fussion=none"], "fussion: is no setting"),
            (["seed=1,2"], "--seeds"),
            (["precompute.device=cpu"], "--over proposals="),
            (["fusion=none,none"], "two variants would be called 'fusion=none'"),
            (["fusion=none", "model.fusion=bilateral"], "given twice"),
        ],
    )
    def test_mistakes_are_named(self, overs: list[str], message: str) -> None:
        with pytest.raises(BadInput, match=message):
            names(overs)

    def test_a_cache_must_be_named(self) -> None:
        with pytest.raises(BadInput, match="--audio"):
            plan_variants(["proposals=a,b"], None, None)

    def test_seeds(self) -> None:
        assert parse_seeds("3,0,12") == [3, 0, 12]
        for wrong in ("", "1,", "a", "1,1", "-1"):
            with pytest.raises(BadInput, match="--seeds"):
                parse_seeds(wrong)


class TestRuns:
    def test_table_runs_and_files(self, small: Compare, tmp_path: Path) -> None:
        table = small(["fusion=none,bilateral"], [0, 1], sounds=["right", "swapped"])
        assert [(r.variant, r.sound) for r in table.rows] == [
            ("fusion=none", "right"),
            ("fusion=bilateral", "right"),
            ("fusion=none", "swapped"),
            ("fusion=bilateral", "swapped"),
        ]
        assert all(set(r.M_J) == set(r.M_F) == {0, 1} for r in table.rows)
        for fusion in ("none", "bilateral"):
            for seed in (0, 1):
                config, _ = read_run(tmp_path / "out" / f"fusion={fusion}" / f"seed-{seed}")
                assert (config.model.fusion, config.train.seed) == (fusion, seed)
        written = json.loads((tmp_path / "out" / "compare.json").read_text())
        assert written == json.loads(json.dumps(table.to_json()))
        assert (tmp_path / "out" / "compare.txt").read_text() == f"{table}\n"
        assert table.markdown() == (tmp_path / "out" / "compare.md").read_text()

    def test_what_is_finished_is_not_done_again(self, small: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
        first = small(["fusion=none,bilateral"], [0])
        folders = trained(monkeypatch)
        assert small(["fusion=none,bilateral"], [0]) == first
        assert folders == []
        small(["fusion=none,bilateral,visual"], [0])
        assert folders == ["fusion=visual/seed-0"]

    def test_goes_on_after_a_stop(self, small: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            trained(patch, break_at=1)
            with pytest.raises(Interrupted, match=r"fusion=bilateral, seed 0.*run the same command again"):
                small(["fusion=none,bilateral"], [0])
        so_far = small(["fusion=none,bilateral"], [0], table=True)
        assert [len(row.M_J) for row in so_far.rows] == [1, 0]
        folders = trained(monkeypatch)
        assert len(small(["fusion=none,bilateral"], [0]).row("fusion=bilateral").M_J) == 1
        assert folders == ["fusion=bilateral/seed-0"]

    def test_longer_training_is_scored_anew(self, small: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
        small([], [0])
        folders = trained(monkeypatch)
        small([], [0], overrides=[*SMALL, "train.steps=2"])
        assert folders == [f"{RECIPE}/seed-0"]

    def test_a_run_that_breaks_leaves_the_others(self, small: Compare) -> None:
        wild = [*SMALL, "train.clip_norm=1e30", "train.steps=4"]
        table = small(["lr=1e30,1e-4"], [0], overrides=wild)
        assert list(table.failed) == ["lr=1e30, seed 0"]
        assert "lr=1e30, seed 0 failed: training broke at step" in str(table)
        assert [len(row.M_J) for row in table.rows] == [0, 1]

    def test_caches_of_other_widths(self, root: Path, tmp_path: Path) -> None:
        narrow_features(root, 7)
        variants = plan_variants(["audio=logmel,narrow"], "felzenszwalb", None)
        table = compare(Comparison(root, "tiny", variants, [0], SMALL), tmp_path)
        assert [len(row.M_J) for row in table.rows] == [1, 1]


class TestRoots:
    def test_one_root_is_compared_in_the_folder_itself_several_in_one_each(self) -> None:
        out = Path("out")
        assert folders_of([Path("a/s4")], ["tiny"], out) == {out: (Path("a/s4"), "tiny")}
        both = folders_of([Path("a/s4"), "s3://b/ms3/"], ["s4-r50", "ms3-r50"], out)
        assert both == {out / "s4": (Path("a/s4"), "s4-r50"), out / "ms3": ("s3://b/ms3/", "ms3-r50")}
        assert {preset for _, preset in folders_of(["a", "b"], ["tiny"], out).values()} == {"tiny"}
        with pytest.raises(BadInput, match=r"2 presets for 3 roots"):
            folders_of(["a", "b", "c"], ["tiny", "tiny"], out)
        with pytest.raises(BadInput, match=r"two roots are called 's4'"):
            folders_of(["a/s4", "b/s4"], ["tiny"], out)

    def test_nothing_starts_before_all_roots_are_found_fit(self, prepared: Path, tmp_path: Path) -> None:
        variants = plan_variants([], "felzenszwalb", "logmel")
        one = Comparison(prepared, "tiny", variants, [0], SMALL)
        with pytest.raises(BadInput, match=r"(?s)nothing was started.*two: .*'nowhere'"):
            compare_all({tmp_path / "one": one, tmp_path / "two": replace(one, split="nowhere")})
        assert list(tmp_path.iterdir()) == []

    def test_each_root_has_a_table_of_its_own(
        self, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "other"
        import_clips(SyntheticSource("s4", 12, seed=1, size=64), other, shard_frames=20)
        run_plans(plan_caches(other, PrecomputeConfig(), "felzenszwalb", "logmel"), workers=0, scheduler=None)
        settings = [word for setting in SMALL for word in ("--set", setting)]
        arguments = ["compare", root, other, "--preset", "tiny", "--proposals", "felzenszwalb", "--audio", "logmel"]
        arguments += ["--over", "fusion=none+lr=0.002,bilateral", "--seeds", "0", "--out", tmp_path / "out", *settings]
        assert run(app, [str(word) for word in arguments]) == DONE
        text = capfd.readouterr().out
        first, second = text.split("---- other data: not comparable with the numbers above ----")
        assert first.startswith("synthetic-ms3, ")
        assert second.strip().startswith("synthetic-s4, ")
        for name in ("root", "other"):
            assert (tmp_path / "out" / name / "compare.json").exists()
            config, _ = read_run(tmp_path / "out" / name / "fusion=none" / "seed-0")
            assert config.train.lr == 0.002
        assert run(app, [str(word) for word in [*arguments, "--table", "--json"]]) == DONE
        tables = json.loads(capfd.readouterr().out)["roots"]
        assert {name: table["dataset"] for name, table in tables.items()} == {
            "root": "synthetic-ms3",
            "other": "synthetic-s4",
        }
        found = find_targets([tmp_path / "out"])
        assert {path.name for path in found.tables} == {"root", "other"}
        assert len(found.runs) == 4


class TestRefusals:
    def test_all_problems_at_once_and_nothing_started(self, small: Compare, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"(?s)fusion=nun.*model\.fusion.*fusion=non.*model\.fusion"):
            small(["fusion=none,nun,non"], [0])
        with pytest.raises(BadInput, match=r"proposals=sam-vit-h: .*combo precompute"):
            small(["proposals=felzenszwalb,sam-vit-h"], [0])
        with pytest.raises(BadInput, match="num_queries"):
            small(["num_queries=4,0"], [0])
        assert not (tmp_path / "out").exists()

    def test_a_cache_that_does_not_cover_the_split(self, root: Path, tmp_path: Path) -> None:
        create_proposals(ClipStore(root), Provenance("half", "1", {}))
        variants = plan_variants(["proposals=felzenszwalb,half"], None, "logmel")
        with pytest.raises(BadInput, match="does not cover split"):
            compare(Comparison(root, "tiny", variants, [0]), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_split_or_protocol_that_is_not_there(self, small: Compare) -> None:
        with pytest.raises(BadInput, match="'nowhere'"):
            small([], [0], split="nowhere")
        with pytest.raises(BadInput, match="dataset-confusion"):
            small([], [0], protocol="dataset-confusion")

    def test_a_folder_with_another_run(self, small: Compare) -> None:
        small([], [0])
        with pytest.raises(BadInput, match=r"recipe: .*(?s:.*)train\.lr"):
            small([], [0], overrides=[*SMALL, "train.lr=0.5"])

    def test_torchrun(self, small: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(BadInput, match="torchrun"):
            small([], [0])


class TestTable:
    def test_spread_is_the_sample_standard_deviation(self) -> None:
        assert spread([50.0, 60.0, 70.0]) == "60.0 ± 10.0 (3)"
        assert spread([12.3]) == "12.3 (1)"
        assert spread([]) == "-"

    def test_text_markdown_and_json(self) -> None:
        rows = (
            Row("fusion=none", "right", {0: 50.0, 1: 60.0}, {0: 70.0}),
            Row("fusion=none", "swapped", {}, {}),
        )
        table = Table("synthetic-ms3", "tiny", ("train.steps=5",), "test", "published: as COMBO", (0, 1), rows, {})
        text = str(table)
        assert "synthetic-ms3, test split, preset tiny with train.steps=5; published: as COMBO" in text
        assert "fusion=none  55.0 ± 7.1 (2)  70.0 (1)" in text
        assert "swapped sound" in text
        assert "difference" not in text
        assert "| fusion=none | 55.0 ± 7.1 (2) | 70.0 (1) |" in table.markdown()
        stored = table.to_json()
        assert (stored["unit"], stored["differences"]) == ("percent", [])
        right, swapped = stored["rows"]
        assert right["M_J"].pop("std") == pytest.approx(7.07, abs=1e-2)
        half = 12.7062047 * 5  # Student's t of one degree of freedom
        assert right["M_J"].pop("interval") == pytest.approx((55 - half, 55 + half))
        assert right["M_J"] == {"mean": 55, "n": 2, "by_seed": {"0": 50, "1": 60}}
        assert right["M_F"]["interval"] is None
        assert swapped["M_J"] == {"mean": None, "std": None, "interval": None, "n": 0, "by_seed": {}}

    def test_differences_are_from_the_first_variant_with_the_same_sound_paired_by_seed(self) -> None:
        table = three_variants()
        half = 4.30265273 * np.sqrt(7 / 3)
        less, more = table.to_json()["differences"]
        assert (less["variant"], less["first"], less["sound"]) == ("fusion=none", RECIPE, "right")
        assert less["M_J"].pop("interval") == pytest.approx((-3 - half, -3 + half))
        assert less["M_J"].pop("p") == pytest.approx(0.1885, abs=5e-4)
        assert less["M_J"] == {"mean": -3, "n": 3, "left_out_seeds": [4]}
        assert (more["variant"], more["first"], more["sound"]) == ("siam=none", RECIPE, "swapped")
        assert more["M_F"] == {"mean": 2, "interval": None, "p": None, "n": 1, "left_out_seeds": [1]}

    def test_differences_are_printed_with_interval_p_n_and_what_is_left_out(self) -> None:
        text, markdown = str(three_variants()), three_variants().markdown()
        line = next(line for line in text.splitlines() if line.startswith("fusion=none - recipe "))
        cells = ["fusion=none - recipe", "-3.0 [-9.6, +3.6] p 0.188 (3)", "-5.0 [-5.0, -5.0] p < 0.001 (3)"]
        assert re.split("  +", line) == cells
        assert "| siam=none - recipe | +1.0 (1) | +2.0 (1) |" in markdown
        for shown in (text, markdown):
            assert "fusion=none - recipe: without seeds that only one of them has: 4" in shown
            assert "siam=none - recipe: without seeds that only one of them has: 1" in shown
            assert shown.count("p of a paired t-test (seeds that both have)") == 2
        assert [text.count(f"{name} - recipe  ") for name in ("fusion=none", "siam=none")] == [1, 1]

    @pytest.mark.parametrize(("p", "shown"), [(0.0009, "p < 0.001"), (0.0012, "p 0.001"), (0.5, "p 0.500")])
    def test_small_p_are_not_shown_as_nothing(self, p: float, shown: str) -> None:
        assert paired(PairedTest(Mean(1.25, (-0.5, 3.0), 4), p, ())) == f"+1.2 [-0.5, +3.0] {shown} (4)"

    def test_a_table_of_fractions_is_read_in_percent(self, tmp_path: Path) -> None:
        path = tmp_path / "compare.json"
        path.write_text(json.dumps(three_variants().to_json()))
        now = read_table(path)
        assert json.loads(json.dumps(now)) == json.loads(path.read_text())
        before = json.loads(path.read_text())
        del before["unit"], before["differences"]
        for row in before["rows"]:
            for score in ("M_J", "M_F"):
                row[score] = {"by_seed": {seed: value / 100 for seed, value in row[score]["by_seed"].items()}}
        path.write_text(json.dumps(before))
        found = read_table(path)
        assert [r["M_J"]["mean"] for r in found["rows"]] == pytest.approx([r["M_J"]["mean"] for r in now["rows"]])
        path.write_text("[]")
        with pytest.raises(BadInput, match=r"compare\.json is damaged"):
            read_table(path)


def three_variants() -> Table:
    """Differences of -1, -2 and -6 in M_J; the first variant has one seed more, or less."""
    rows = (
        Row(RECIPE, "right", {0: 51.0, 1: 62.0, 2: 76.0, 4: 0.0}, {0: 55.0, 1: 65.0, 2: 75.0, 4: 0.0}),
        Row("fusion=none", "right", {0: 50.0, 1: 60.0, 2: 70.0}, {0: 50.0, 1: 60.0, 2: 70.0}),
        Row(RECIPE, "swapped", {0: 1.0}, {0: 1.0}),
        Row("siam=none", "swapped", {0: 2.0, 1: 9.0}, {0: 3.0, 1: 9.0}),
    )
    return Table("synthetic-ms3", "tiny", (), "test", "published: as COMBO", (0, 1, 2, 4), rows, {})


def narrow_features(root: Path, dim: int) -> Cache:
    """An audio cache called narrow with `dim` random features."""
    clips = ClipStore(root)
    probes = {name: [[0.0] * dim] * 10 for name in ("silence", "noise")}
    cache = create_cache(clips, audio_attributes(clips, Provenance("narrow", "1", {}), dim, probes))
    for shard in range(cache.num_shards):
        lo, hi = cache.shard_range(shard)
        features = np.random.default_rng(shard).normal(size=(hi - lo, dim)).astype(np.float32)
        arrays = {"features": features}
        counts = {"frames": hi - lo}
        commit_shard(cache, shard, arrays, counts=counts, quarantined={}, notes={})
    return cache


def test_sounds() -> None:
    assert parse_sounds("right,noise") == ["right", "noise"]
    for wrong in ("", "loud", "right,right", "right, noise"):
        with pytest.raises(BadInput, match="--sounds"):
            parse_sounds(wrong)
