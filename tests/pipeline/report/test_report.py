"""Reports: what stands on the page and beside it, and what is said of targets that are empty, damaged or half done."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import EXACT, FakeConfig, FakeGenerator
from PIL import Image
from report_targets import HOSTILE_ID, HOSTILE_OBJECT, make_report, make_root, make_run

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.palette import PALETTE
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BAD_INPUT, DONE, BadInput
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.pipeline.common.pictures import heat, outline, outlined
from combo_avs.pipeline.compare.table import Row, Table
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.report.caches import cache_labels, fit_to_truth


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root, and two runs of it as a comparison of one seed each; not to be written to."""
    folder = tmp_path_factory.mktemp("report")
    root = make_root(folder / "root", 7, proposals=("none", "felzenszwalb"))
    make_run(root, folder / "cmp" / "with" / "seed-0")
    make_run(root, folder / "cmp" / "without" / "seed-0", seed=1, consistency=0.0)
    return folder


class Page(HTMLParser):
    """The galleries' data, all text, and all addresses of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder, self.text, self.addresses, self.tags = path.parent, "", [], []
        self.galleries: list[dict[str, Any]] = []
        self._json = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._json = ("type", "application/json") in attrs
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._json:
            self.galleries.append(json.loads(data))
            self._json = False
        self.text += data


def test_a_cache_root_shows_every_clip_with_every_generator(made: Path, tmp_path: Path) -> None:
    page = Page(make_report([made / "root"], tmp_path / "out"))
    (gallery,) = page.galleries
    assert len(gallery["items"]) == 7
    assert gallery["rows"] == [
        ["frame", "truth"],
        ["masks, felzenszwalb", "Maskige, felzenszwalb"],
        ["masks, none", "Maskige, none"],
    ]
    root, item = ClipStore(made / "root"), gallery["items"][3]
    first, end = root.span(3)
    assert item["id"] == root.table[3].id
    cache = open_cache(root, "proposals", "felzenszwalb")
    assert item["frames"]["masks:felzenszwalb"] == [len(masks) for masks in cache.read_masks(first, end)]
    assert set(item["frames"]["coverage:none"]) == {0}
    pairs = zip(cache.read("maskige", first, end), root.read("labels", first, end), strict=True)
    fits = [fit_to_truth(maskige, truth) for maskige, truth in pairs]
    assert any(fits)
    for shown, fit in zip(item["frames"]["fit:felzenszwalb"], fits, strict=True):
        assert shown == (None if fit is None else pytest.approx(100 * fit, rel=1e-3))
    assert "fit to the truth in %" in page.text
    for item in gallery["items"]:
        for rows, sheet in zip(gallery["rows"], item["sheets"], strict=True):
            with Image.open(page.folder / sheet) as picture:
                assert picture.size == (66 * item["length"], 66 * len(rows))


def test_a_cache_by_its_folder_shows_that_one_alone(made: Path, tmp_path: Path) -> None:
    cache = open_cache(ClipStore(made / "root"), "proposals", "none")
    (gallery,) = Page(make_report([Path(str(cache.path))], tmp_path / "out")).galleries
    assert [rows[0] for rows in gallery["rows"]] == ["frame", "masks, none"]


def test_two_runs_are_scored_as_evaluate_does_and_compared_clip_by_clip(made: Path, tmp_path: Path) -> None:
    runs = [made / "cmp" / name / "seed-0" for name in ("with", "without")]
    page = Page(make_report(runs, tmp_path / "out"))
    scores = [evaluate_run(run)["published"] for run in runs]
    (gallery,) = page.galleries
    assert {i["id"] for i in gallery["items"]} == scores[0].per_clip.keys()
    for item in gallery["items"]:
        values = item["values"]
        for name, one in zip(("with", "without"), scores, strict=True):
            clip, frames = one.per_clip[item["id"]], item["frames"]
            assert (values[f"J:{name}"], values[f"F:{name}"]) == pytest.approx((clip.J, clip.F), rel=1e-3)
            for key, expected in (("J", clip.J_T), ("area", clip.area_T)):
                shown = frames.get(f"{key}:{name}", [None] * len(expected))
                assert shown == [None if value is None else pytest.approx(value, rel=1e-3) for value in expected]
            scored = [j for j in frames[f"J:{name}"] if j is not None]
            assert np.mean(scored) == pytest.approx(values[f"J:{name}"], rel=1e-3)
        assert values["J-difference-0"] == pytest.approx(values["J:without"] - values["J:with"], abs=0.1)
        assert (page.folder / item["sound"]).stat().st_size > 1000
    rows = [f"{what}, with" for what in ("prediction", "heat map", "attention of the sound")]
    assert gallery["rows"][1] == [rows[0], f"{rows[1]}, consistency loss x 10", rows[2]]
    assert gallery["rows"][2][1] == "heat map, without, no consistency loss"
    for item in gallery["items"]:
        with Image.open(page.folder / item["sheets"][1]) as picture:
            assert picture.size == (66 * item["length"], 66 * 3)
    assert scores[0].protocol in page.text
    apart = [scores[1].per_clip[clip].J - one.J for clip, one in scores[0].per_clip.items()]
    middle, half = np.mean(apart), 12.7062047 * np.std(apart, ddof=1) / np.sqrt(2)
    assert len(apart) == 2
    assert f"{middle:+.3g}{middle - half:+.3g} to {middle + half:+.3g} (t)2" in page.text
    assert "10000 resamples" in page.text
    assert f"{scores[0].M_J:.1f} (1)" in page.text


def test_a_comparison_shows_its_table_and_its_runs_in_its_order(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "cmp", tmp_path / "cmp"))
    rows = tuple(
        Row(name, "right", {0: j, 1: j + 10.0}, {0: 50.0, 1: 50.0}) for name, j in (("without", 20.0), ("with", 30.0))
    )
    table = Table("noise", "tiny", (), "test", "published: p", (0, 1), rows, {"with, seed 1": "<b>broke</b>"})
    (folder / "compare.json").write_text(json.dumps(table.to_json()))
    page = Page(make_report([folder], tmp_path / "out"))
    assert "25.0 ± 7.1 (2)" in page.text
    assert re.search(r"with minus without\s*right2\+10\.0\+10\.0 to \+10\.0< 0\.001\+0\.0", page.text)
    assert "<b>broke</b>" in page.text
    assert [rows[0] for rows in page.galleries[0]["rows"]][1:] == ["prediction, without", "prediction, with"]


def test_nothing_is_fetched_and_names_stay_text(made: Path, tmp_path: Path) -> None:
    path = make_report([made / "root", made / "cmp" / "with" / "seed-0"], tmp_path / "out")
    page = Page(path)
    assert not [a for a in page.addresses if not a.startswith(("data:", "#"))]
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)", path.read_text())
    assert HOSTILE_ID not in path.read_text()
    assert HOSTILE_OBJECT not in path.read_text()
    assert HOSTILE_ID in [item["id"] for item in page.galleries[1]["items"]]
    assert any(HOSTILE_OBJECT in item["objects"] for g in page.galleries for item in g["items"])
    assert page.tags.count("script") == 3  # two galleries' data, one program
    assert all(re.fullmatch(r"[a-z0-9-]+\.(webp|flac)", p.name) for p in (path.parent / "files").iterdir())


def test_unlabelled_sets_show_predictions_without_scores(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", 4, labelled=False)
    page = Page(make_report([root, make_run(root, tmp_path / "run")], tmp_path / "out"))
    runs, caches = page.galleries
    assert "No frame of this split has ground truth" in page.text
    assert runs["rows"] == [
        ["frame", "log-mel"],
        ["prediction, run", "heat map, run, consistency loss x 10", "attention of the sound, run"],
    ]
    assert caches["rows"][0] == ["frame"]
    assert not any(key.startswith("fit") for item in caches["items"] for key in item["values"])


def test_half_a_cache_and_a_damaged_shard_are_said(made: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made / "root", tmp_path / "root"))
    cache = open_cache(ClipStore(root), "proposals", "felzenszwalb")
    cache.invalidate([0])
    page = Page(make_report([root], tmp_path / "out"))
    assert f"1 of {cache.num_shards} shards are missing; 'combo precompute' resumes" in page.text
    sheets = [item["sheets"][1] for item in page.galleries[0]["items"]]
    assert None in sheets
    assert any(sheets)

    damaged = next(
        file for file in (root / "clips.zarr" / "labels").rglob("*") if file.is_file() and file.name != "zarr.json"
    )
    damaged.write_bytes(bytes(damaged.stat().st_size))
    page = Page(make_report([root], tmp_path / "out"))
    assert "is damaged" in page.text
    assert 0 < len(page.galleries[0]["items"]) < 7


def test_a_root_without_caches_and_clips_half_imported(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(made / "root" / "clips.zarr", root / "clips.zarr")
    clips = ClipStore(root)
    clips.invalidate(range(1, clips.num_shards))
    page = Page(make_report([root], tmp_path / "out"))
    assert "no proposals cache yet" in page.text
    assert "are not imported" in page.text
    assert 0 < len(page.galleries[0]["items"]) < 7


def test_a_run_without_weights_or_log_is_a_page_that_says_so(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "cmp" / "with" / "seed-0", tmp_path / "run"))
    shutil.rmtree(run / "best")
    (run / "log.jsonl").unlink()
    page = Page(make_report([run], tmp_path / "out"))
    assert "no log yet" in page.text
    assert "no checkpoint yet" in page.text
    assert not page.galleries


def test_a_run_that_fails_on_the_way_leaves_no_trace_in_the_gallery(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", 10, proposals=("none", "felzenszwalb"))
    runs = [make_run(root, tmp_path / name, proposals=name) for name in ("felzenszwalb", "none")]
    clips = ClipStore(root)
    cache = open_cache(clips, "proposals", "felzenszwalb")
    last = max(clips.span(int(row))[0] // clips.shard_frames for row in clips.table.rows("test"))
    next(f for f in Path(str(cache.path / "maskige" / "c" / str(last))).rglob("*") if f.is_file()).write_bytes(b"torn")
    page = Page(make_report(runs, tmp_path / "out"))
    assert "felzenszwalb: not scored" in page.text
    (gallery,) = page.galleries
    assert [rows[0] for rows in gallery["rows"]] == ["frame", "prediction, none"]
    for item in gallery["items"]:
        assert len(item["sheets"]) == 2
        assert item["frames"].keys() == {"J:none"}


def test_through_the_command_line(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    targets = [made / "root", made / "cmp" / "with" / "seed-0"]
    where = ["--out", out, "--split", "val", "--protocol", "hard", "--device", "cpu"]
    assert run(app, [str(a) for a in ["report", *targets, *where]]) == DONE
    assert capfd.readouterr().out == f"{out / 'index.html'}\n"
    page = Page(out / "index.html")
    assert {item["split"] for item in page.galleries[0]["items"]} == {"val"}
    assert "hard: F of the mask that J scores" in page.text
    for wrong, message in (("--split", "there is no split 'x'; there are train"), ("--protocol", "no protocol 'x'")):
        assert run(app, ["report", str(targets[1]), "--out", str(tmp_path / "none"), wrong, "x"]) == BAD_INPUT
        assert message in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"root": 1}'])
def test_a_damaged_run_json_is_bad_input_that_names_the_run(made: Path, tmp_path: Path, content: str) -> None:
    run = Path(shutil.copytree(made / "cmp" / "with" / "seed-0", tmp_path / "broken"))
    (run / "run.json").write_text(content)
    with pytest.raises(BadInput, match="broken"):
        make_report([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_targets_that_are_nothing_are_listed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty: neither(.|\n)*gone: there is no such folder"):
        make_report([tmp_path / "empty", tmp_path / "gone"], tmp_path / "out")


def test_only_a_report_is_written_over(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(BadInput, match=r"thesis\.tex"):
        make_report([made / "root"], tmp_path / "mine")
    cache = Path(str(open_cache(ClipStore(made / "root"), "proposals", "none").path))
    before = {p.name for p in (make_report([made / "root"], tmp_path / "out").parent / "files").iterdir()}
    after = {p.name for p in (make_report([cache], tmp_path / "out").parent / "files").iterdir()}
    assert after < before


def test_runs_on_different_data_are_shown_and_said_not_to_be_comparable(made: Path, tmp_path: Path) -> None:
    run_on_other = make_run(make_root(tmp_path / "other", 10), tmp_path / "other-run")
    page = Page(make_report([made / "cmp" / "with" / "seed-0", run_on_other], tmp_path / "out"))
    here, there = (ClipStore(root).fingerprint()[:12] for root in (made / "root", tmp_path / "other"))
    sentence = f"trained and scored on different data: noise {here} (with); noise {there} (other-run)"
    assert page.text.count(sentence) == 2  # at the numbers of both
    assert len(page.galleries) == 2
    alone = Page(make_report([run_on_other], tmp_path / "out"))
    assert "Not comparable" not in alone.text


def test_caches_of_one_maker_are_told_apart_by_what_differs() -> None:
    def cache(name: str, fingerprint: str, **parameters: object) -> SimpleNamespace:
        return SimpleNamespace(name=f"{name}-{fingerprint}", provenance=Provenance(name, "1", parameters))

    fine, coarse = cache("felz", "1", scale=50, sigma=1), cache("felz", "2", scale=400, sigma=1)
    assert cache_labels([fine, coarse, cache("none", "3")]) == ["felz scale=50", "felz scale=400", "none"]
    assert cache_labels([coarse]) == ["felz"]
    assert cache_labels([fine, cache("felz", "4", scale=50, sigma=1)]) == ["felz-1", "felz-4"]
    assert cache_labels([cache("sam", "5", untrained=True)]) == ["sam (UNTRAINED)"]


def test_an_untrained_cache_is_marked_wherever_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "fake", Entry(FakeConfig, FakeGenerator, EXACT))
    root = make_root(tmp_path / "root", 4)
    config = PrecomputeConfig(generator={"untrained": True})
    run_plans(plan_caches(root, config, "fake", None), workers=0, scheduler=None)
    run = make_run(root, tmp_path / "run", proposals="untrained-fake")
    page = Page(make_report([root, run], tmp_path / "out"))
    runs, caches = page.galleries
    assert caches["rows"][2] == ["masks, untrained-fake (UNTRAINED)", "Maskige, untrained-fake (UNTRAINED)"]
    assert "untrained weights" in page.text
    assert page.text.count(f"untrained: {open_cache(ClipStore(root), 'proposals', 'untrained-fake').name}") == 2
    assert "UNTRAINED" not in str(runs["rows"]) + str(caches["rows"][1])


def test_outlines_of_many_masks_are_those_of_each() -> None:
    masks = np.random.default_rng(0).random((5, 9, 7)) > 0.3
    frame = np.full((9, 7, 3), 100, np.uint8)
    expected = frame // 2 + 64
    for rank in range(5)[::-1]:
        expected[outline(masks[rank].astype(np.uint8))] = PALETTE[1 + rank]
    assert np.array_equal(outlined(frame, masks), expected)
    assert np.array_equal(outlined(frame, masks[:0]), frame // 2 + 64)


def test_heat_goes_from_blue_to_red() -> None:
    picture = heat(np.zeros((1, 3, 3), np.uint8), np.array([[0, 0.5, 1]], np.float32))
    assert picture[0].argmax(axis=1).tolist() == [2, 1, 0]


def test_fit_to_the_truth() -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[:, 2:] = 1
    halves = np.zeros((4, 4, 3), np.uint8)
    halves[:, 2:] = 9
    assert fit_to_truth(halves, truth) == 1
    thirds = np.zeros((4, 4, 3), np.uint8)
    thirds[:, 1:] = 9  # 8 of its 12 pixels are object
    assert fit_to_truth(thirds, truth) == pytest.approx(8 / 12)
    assert fit_to_truth(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)) is None
    truth[2:] = 255  # ignored
    assert fit_to_truth(halves, truth) == 1


class TestKeptResults:
    @pytest.fixture
    def runs(self, made: Path, tmp_path: Path) -> list[Path]:
        """Two seeds of one variant that were evaluated, with another M_J in the results than the networks have."""
        runs = []
        for seed, m_j in ((0, 12.25), (1, 14.75)):
            runs.append(make_run(made / "root", tmp_path / "kept" / f"seed-{seed}", seed))
            evaluate_run(runs[-1], device="cpu")
            (path,) = (runs[-1] / "results").iterdir()
            values = json.loads(path.read_text())
            values["M_J"] = m_j
            for clip in values["per_clip"].values():
                clip["J"], clip["J_T"] = m_j, [m_j] * len(clip["J_T"])
                clip["area_T"] = [0.125] + [None] * (len(clip["J_T"]) - 1)
            path.write_text(json.dumps(values))
        return runs

    def test_are_read_instead_of_scoring_anew(self, runs: list[Path], tmp_path: Path) -> None:
        before = {p: p.stat().st_mtime_ns for r in runs for p in r.rglob("*")}
        page = Page(make_report(runs, tmp_path / "out"))
        assert "13.5 ± 1.8 (2)" in page.text
        assert page.text.count("as kept by combo evaluate") == 2
        (gallery,) = page.galleries
        for item in gallery["items"]:
            assert item["values"]["J:kept"] == 13.5
            assert item["frames"]["J:kept"] == [13.5] * item["length"]
            assert item["frames"]["area:kept"][:2] == [0.125, None]
        labels = {m["key"]: m["label"] for m in gallery["measures"]}
        assert labels["area:kept"] == "false-positive area (0..1) of frames without object, kept"
        assert {p: p.stat().st_mtime_ns for r in runs for p in r.rglob("*")} == before

    def test_of_other_clips_are_not(self, runs: list[Path], tmp_path: Path) -> None:
        for run_folder in runs:
            (path,) = (run_folder / "results").iterdir()
            path.write_text(path.read_text().replace('"clips_fingerprint": "', '"clips_fingerprint": "0'))
        page = Page(make_report(runs, tmp_path / "out"))
        assert "as kept by" not in page.text
        assert "13.5" not in page.text

    def test_damage_is_a_problem_of_that_run(self, runs: list[Path], tmp_path: Path) -> None:
        (path,) = (runs[0] / "results").iterdir()
        path.write_text("{")
        page = Page(make_report(runs, tmp_path / "out"))
        assert f"{path} is damaged" in page.text
        assert "14.8 (1)" in page.text
