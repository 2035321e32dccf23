"""`combo reproduce` on a small set in the released layout, with rule-made weights in the released format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import maskiges_of, published_state, ruled, scored_by_hand, write_maskiges

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.sources.avsbench.writer import write_avsbench
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BAD_INPUT, DONE, FAILED, BadInput
from combo_avs.model.audio.vggish import VGGish
from combo_avs.model.config import ModelConfig
from combo_avs.model.weights.read import read_state_dict
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.precompute.selection import Selection
from combo_avs.pipeline.published.inputs import Request
from combo_avs.pipeline.published.outcome import Reproduction
from combo_avs.pipeline.published.paper import CLIPS, PAPER, Numbers
from combo_avs.pipeline.published.reproduce import reproduce
from combo_avs.pipeline.runs.folder import check_run, create_converted_run, read_run

SMALL = {"num_queries": 6, "width": 32, "audio_hidden": 16, "encoder_layers": 1, "encoder_ffn": 16}
SMALL |= {"decoder_layers": 2, "decoder_ffn": 16}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AVSBench-object with Multi-sources alone, its Maskiges where they are released to."""
    folder = tmp_path_factory.mktemp("avsbench")
    source = SyntheticSource("ms3", 7, seed=1, size=224)  # of which two are for testing
    write_avsbench(source, folder, "ms3")
    write_maskiges(maskiges_of(folder), source)
    return folder


@pytest.fixture(scope="module")
def vggish() -> dict[str, torch.Tensor]:
    """Under the names that a published checkpoint has for it."""
    with torch.device("meta"):
        network = VGGish()
    return ruled({f"audio_backbone.{k}": v for k, v in network.state_dict().items()})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, vggish: dict[str, torch.Tensor]) -> Path:
    """COMBO-R50 with whole backbones and a small rest."""
    path = tmp_path_factory.mktemp("weights") / "model_best.pth"
    torch.save({"model": {**published_state(ModelConfig(**SMALL)), **vggish}, "iteration": 7}, path)
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `checkpoint`, without VGGish: quick to read, for what is refused."""
    path = tmp_path_factory.mktemp("weights") / "bare.pth"
    torch.save({"model": published_state(ModelConfig(**SMALL))}, path)
    return path


@pytest.fixture(scope="module")
def done(tree: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reproduction]:
    root = tmp_path_factory.mktemp("reproduce") / "root"
    return root, reproduce(Request("ms3", "r50", tree, checkpoint, root), "cpu")


class TestToTheEnd:
    def test_scores_are_those_of_a_direct_evaluation(self, done: tuple, tree: Path, checkpoint: Path) -> None:
        _, report = done
        by_hand = scored_by_hand(tree, checkpoint, ModelConfig(**SMALL))
        assert report.ours == pytest.approx([100 * share for share in by_hand], abs=1e-3)
        assert min(report.ours) > 3
        assert report.scored_clips == 2

    def test_the_report_prints_them_beside_the_papers(self, done: tuple) -> None:
        _, report = done
        rows = {line.split()[0]: line.split()[1:] for line in str(report).splitlines() if line.startswith("M_")}
        for name, paper in (("M_J", 54.5), ("M_F", 66.6)):
            ours, published, difference, tolerance, *verdict = rows[name]
            assert (float(published), float(tolerance)) == (paper, 0.1)
            assert float(ours) == pytest.approx(getattr(report.ours, name), abs=0.005)
            assert float(difference) == pytest.approx(getattr(report.ours, name) - paper, abs=0.005)
            assert verdict == ["not", "met"]

    def test_the_command_prints_it_and_ends_with_5(
        self, done: tuple, tree: Path, checkpoint: Path, capsys: pytest.CaptureFixture
    ) -> None:
        root, report = done
        arguments = ["ms3", "--backbone", "r50", "--source", tree, "--checkpoint", checkpoint, "--root", root]
        assert run(app, [str(a) for a in ["reproduce", *arguments, "--device", "cpu", "--json"]]) == FAILED
        captured = capsys.readouterr()
        assert json.loads(captured.out) == report.summary()
        assert "not met" in captured.err

    def test_weights_convert_there_and_back(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
        assert run(app, ["weights", "convert", str(checkpoint), str(ours), "--preset", "ms3-r50"]) == DONE
        assert "6 of them, 2 classes (s4 or ms3)" in capsys.readouterr().out
        vggish = ["--vggish", str(ours.with_suffix(".vggish.safetensors"))]
        assert run(app, ["weights", "convert", str(ours), str(back), "--to", "published", *vggish]) == DONE
        official, again = read_state_dict(checkpoint), read_state_dict(back)
        assert {k: v for k, v in again.items() if k != "criterion.empty_weight"}.keys() == {
            k for k in official if k != "criterion.empty_weight"
        }
        assert all(torch.equal(official[k], again[k]) for k in official)
        assert run(app, ["weights", "convert", str(checkpoint), str(ours), "--preset", "avss-r50"]) == BAD_INPUT

    def test_it_says_why_the_numbers_cannot_be_compared(self, done: tuple) -> None:
        _, report = done
        assert not report.met
        text = "\n".join(report.obstacles)
        assert "4 train, 1 val, 2 test, not 296 train, 64 val, 64 test" in text
        assert "num_queries of the checkpoint is 6, not 100" in text
        assert "Maskiges" not in text
        assert all(reason in str(report) for reason in report.obstacles)
        assert json.loads(json.dumps(report.summary()))["not_comparable"] == list(report.obstacles)

    def test_the_run_is_a_run_like_any_other(self, done: tuple) -> None:
        _, report = done
        config, _ = read_run(report.run)
        assert config.model == ModelConfig(**SMALL, audio_queries="published")
        scores = evaluate_run(report.run, "test", device="cpu")["published"]
        assert report.ours == (scores.M_J, scores.M_F)

    def test_training_does_not_go_on_from_it(self, done: tuple) -> None:
        _, report = done
        config, info = read_run(report.run)
        with pytest.raises(BadInput, match="converted_from"):
            check_run(report.run, config, replace(info, converted_from=None))

    def test_again_reuses_everything(self, done: tuple, tree: Path, checkpoint: Path) -> None:
        root, report = done
        before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name not in ALWAYS}
        assert reproduce(Request("ms3", "r50", tree, checkpoint, root), "cpu") == report
        assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name not in ALWAYS} == before

    def test_with_maskiges_of_a_cache_and_without_fusion(self, done: tuple, tree: Path, checkpoint: Path) -> None:
        root, report = done
        plans = plan_caches(root, PrecomputeConfig(), "none", None, Selection(split="test"))
        run_plans(plans, workers=0, scheduler=None)
        other = reproduce(Request("ms3", "r50", tree, checkpoint, root, proposals="none", fusion="none"), "cpu")
        assert other.run != report.run
        assert other.ours != report.ours
        assert other.fusion == "none"
        assert any("Maskiges are of none" in reason for reason in other.obstacles)
        assert any("fusion is none, not bilateral" in reason for reason in other.obstacles)


ALWAYS = ("_lock",)  # written anew each time


def test_a_conversion_that_was_killed_is_done_again(done: tuple, tmp_path: Path) -> None:
    config, info = read_run(done[1].run)
    weights = {"a": torch.arange(3.0)}
    create_converted_run(tmp_path, config, info, weights)
    best = tmp_path / "best"
    whole = (best / "model.safetensors").read_bytes()
    create_converted_run(tmp_path, config, info, {"a": torch.zeros(3)})
    assert (best / "model.safetensors").read_bytes() == whole
    (best / "metrics.json").unlink()  # the last file to be written
    (best / "model.safetensors").write_bytes(whole[:7])
    create_converted_run(tmp_path, config, info, weights)
    assert (best / "model.safetensors").read_bytes() == whole


class TestRefusals:
    """All before anything is written."""

    def refused(self, tmp_path: Path, *arguments: Any, **options: Any) -> str:
        """arguments: those of `Request` without the root."""
        root = tmp_path / "root"
        request = Request(*arguments[:4], root, *arguments[4:], **options)
        with pytest.raises(BadInput) as error:
            reproduce(request, "cpu")
        assert not root.exists()
        return str(error.value)

    def test_everything_at_once(self, tmp_path: Path) -> None:
        text = self.refused(tmp_path, "s4", "r50", tmp_path / "data", tmp_path / "c.pth", tmp_path / "m", None)
        for part in ("no AVSBench data in", "c.pth", f"{tmp_path / 'm'} is no folder"):
            assert part in text

    def test_no_maskiges_and_no_vggish(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        without = shutil.copytree(tree, tmp_path / "data", ignore=shutil.ignore_patterns("pre_SAM_mask"))
        text = self.refused(tmp_path, "ms3", "r50", without, bare, None, None)
        assert "no Maskiges of these clips" in text
        assert "Name their folder with --maskiges" in text
        assert "bare.pth holds no VGGish weights" in text

    def test_another_backbone(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        text = self.refused(tmp_path, "ms3", "pvt", tree, bare, maskiges_of(tree), None)
        assert "bare.pth has backbone r50, not pvt-v2-b5" in text

    def test_another_task(self, tmp_path: Path, bare: Path) -> None:
        text = self.refused(tmp_path, "avss", "r50", tmp_path / "data", bare, None, None)
        assert "bare.pth is of 2 classes, the data set of 71" in text

    def test_a_truncated_file_and_a_missing_key(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        cut = tmp_path / "cut.pth"
        cut.write_bytes(bare.read_bytes()[:1_000_000])
        assert "cut.pth" in self.refused(tmp_path, "ms3", "r50", tree, cut, maskiges_of(tree), None)
        state = read_state_dict(bare)
        del state["sem_seg_head.predictor.query_embed.weight"]
        short = tmp_path / "short.pth"
        torch.save({"model": state}, short)
        text = self.refused(tmp_path, "ms3", "r50", tree, short, maskiges_of(tree), None)
        assert "short.pth" in text
        assert "query_embed" in text

    def test_damaged_maskiges(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        broken = Path(shutil.copytree(maskiges_of(tree), tmp_path / "maskiges"))
        first, second, *_ = sorted(broken.rglob("*.png"))
        first.unlink()
        second.write_bytes(second.read_bytes()[:-20])
        text = self.refused(tmp_path, "ms3", "r50", tree, bare, broken, None)
        assert f"{first} is missing" in text
        assert f"{second} is cut short" in text

    def test_a_proposals_cache_that_is_not_there(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        text = self.refused(tmp_path, "ms3", "r50", tree, bare, None, None, proposals="felzenszwalb")
        assert "no clips.zarr here" in text

    def test_a_root_with_other_clips(self, root: Path, tree: Path, bare: Path) -> None:
        with pytest.raises(BadInput, match="holds other clips"):
            reproduce(Request("ms3", "r50", tree, bare, root, maskiges_of(tree)), "cpu")

    def test_other_weights_as_vggish(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        wrong = tmp_path / "wrong.pth"
        torch.save({"features.0.weight": torch.ones(64, 1, 3, 3)}, wrong)
        text = self.refused(tmp_path, "ms3", "r50", tree, bare, maskiges_of(tree), wrong)
        assert "missing: embeddings.4.bias" in text

    def test_a_fusion_without_weights(self, tmp_path: Path, tree: Path) -> None:
        plain = tmp_path / "plain.pth"
        torch.save({"model": published_state(ModelConfig(**SMALL, fusion="none"))}, plain)
        text = self.refused(tmp_path, "ms3", "r50", tree, plain, maskiges_of(tree), None, fusion="bilateral")
        assert "--fusion bilateral" in text

    def test_maskiges_for_another_generator(self, tmp_path: Path, tree: Path, bare: Path) -> None:
        text = self.refused(tmp_path, "ms3", "r50", tree, bare, maskiges_of(tree), None, proposals="felzenszwalb")
        assert "leave one of them out" in text


class TestVerdict:
    REPORT = Reproduction(
        subset="s4",
        backbone="r50",
        fusion="bilateral",
        ours=PAPER["s4", "r50"],
        protocol="published",
        scored_clips=740,
        checkpoint="model_best.pth",
        proposals="official-maskiges-0",
        run=Path("run"),
        obstacles=(),
        notes=("a note",),
    )

    @pytest.mark.parametrize(
        ("m_j", "m_f", "met"),
        [
            (81.7, 90.1, True),
            (81.8, 90.0, True),
            (81.65, 90.14, True),
            (81.82, 90.1, False),
            (81.7, 89.88, False),
            (float("nan"), 90.1, False),
        ],
    )
    def test_a_tenth_of_a_point(self, m_j: float, m_f: float, met: bool) -> None:
        report = replace(self.REPORT, ours=Numbers(m_j, m_f))
        assert report.met is met
        assert ("NOT REPRODUCED" in str(report)) is not met

    def test_what_cannot_be_compared_is_never_met(self) -> None:
        report = replace(self.REPORT, obstacles=("other clips",))
        assert not report.met
        assert "NOT REPRODUCED" in str(report)
        assert "other clips" in str(report)

    def test_every_number_of_the_paper_has_its_set(self) -> None:
        assert {subset for subset, _ in PAPER} == set(CLIPS)
        assert len(PAPER) == 6


@pytest.mark.slow
def test_the_full_size_network(tree: Path, vggish: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """COMBO-R50 as published, every key of it."""
    path = tmp_path / "model_best.pth"
    torch.save({"model": {**published_state(ModelConfig()), **vggish}}, path)
    root = tmp_path / "root"
    report = reproduce(Request("ms3", "r50", tree, path, root, maskiges_of(tree)), "cpu")
    assert report.ours == pytest.approx(scored_by_hand(tree, path, ModelConfig()), abs=1e-4)
    assert [r for r in report.obstacles if "official" not in r] == []
    assert not report.met
    assert open_cache(ClipStore(root), "audio", "vggish").dim == 128
