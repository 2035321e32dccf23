"""Evaluation by protocol name: what the default prints, what one pass gives, and which names are refused."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import combo_avs
from combo_avs.data.dataset import ClipDataset
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.model.inference import foreground_score, label_map
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.evaluate.clip import segment
from combo_avs.pipeline.evaluate.protocols import BINARY, PROTOCOLS, SEMANTIC, find_protocol
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.evaluate.scores import Scores, evaluate_dataset
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.train.loop import train

DOCS = Path(combo_avs.__file__).parent / "docs" / "metrics.md"


def dataset_of(root: Path, proposals: str, split: str = "test") -> ClipDataset:
    clips = ClipStore(root)
    return ClipDataset(clips, open_cache(clips, "proposals", proposals), open_cache(clips, "audio", "logmel"), split)


@pytest.fixture(scope="module")
def semantic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("semantic")
    import_clips(SyntheticSource("avss", 15, seed=0, size=64), root, shard_frames=20)
    run_plans(plan_caches(root, PrecomputeConfig(), "none", "logmel"), workers=0, scheduler=None)
    return root


class Blobs(nn.Module):
    """A network that learns nothing: query k is class k, its mask is where a colour of its own is strong."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        colours = torch.randn(classes, 3, generator=torch.Generator().manual_seed(0))
        self.colours = nn.Parameter(colours, requires_grad=False)

    def forward(self, frames: Tensor, maskiges: Tensor, features: Tensor) -> SimpleNamespace:
        pictures = F.avg_pool2d(frames.float(), 4)
        pictures = (pictures - pictures.mean()) / pictures.std()
        masks = torch.einsum("kc,bchw->bkhw", self.colours, pictures)
        logits = 3 * torch.eye(len(self.colours), len(self.colours) + 1).expand(len(frames), -1, -1)
        return SimpleNamespace(logits=[logits], masks=[masks])


@pytest.fixture
def binary(prepared: Path) -> ClipDataset:
    return dataset_of(prepared, "felzenszwalb", "train")


@pytest.fixture
def semantic(semantic_root: Path) -> ClipDataset:
    return dataset_of(semantic_root, "none")


def f_measure(predicted: np.ndarray, truth: np.ndarray) -> float:
    hits = (predicted & truth).sum()
    precision, recall = hits / max(predicted.sum(), 1), hits / max(truth.sum(), 1)
    return 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0


def test_the_default_prints_what_papers_print_for_binary_sets(binary: ClipDataset) -> None:
    network = Blobs(2)
    scores = evaluate_dataset(network, binary)["published"]
    j, f, empty = [], [], 0
    for index in range(len(binary)):
        sample = binary[index]
        s = foreground_score(segment(network, sample, sample.features))
        frames = list(zip(s.sigmoid().numpy(), sample.labels == 1, strict=True))
        empty += sum(not truth.any() for _, truth in frames)
        j.append(
            np.mean(
                [((p > 0.5) & g).sum() / ((p > 0.5) | g).sum() if g.any() else (p <= 0.5).mean() for p, g in frames]
            )
        )
        thresholds = np.linspace(0, 1, 255, dtype=np.float32)
        curves = [[f_measure(p >= t, g) for t in thresholds] for p, g in frames if g.any()]
        f.append(np.mean(curves, axis=0).max() if curves else 0.0)
        clip = scores.per_clip[sample.clip.id]
        assert pytest.approx((100 * j[-1], 100 * f[-1]), abs=1e-4) == (clip.J, clip.F)
        assert pytest.approx(np.mean(clip.J_T)) == clip.J
    np.testing.assert_allclose([scores.M_J, scores.M_F], [100 * np.mean(j), 100 * np.mean(f)], atol=1e-4)
    assert 0 < empty < 5 * len(binary)
    assert 1 < scores.M_J < 99
    assert scores.protocol == "published: COMBO, and AVSBench at 1 clip per call"
    assert scores.details == {"clips": len(binary), "frames": 5 * len(binary), "empty_frames": empty}


def test_the_default_prints_what_papers_print_for_semantic_sets(semantic: ClipDataset) -> None:
    network, classes = Blobs(len(semantic.clips.classes)), semantic.clips.classes
    scores = evaluate_dataset(network, semantic)["published"]
    seen: list[list[tuple[float, float]]] = [[] for _ in classes]
    for index in range(len(semantic)):
        sample = semantic[index]
        labels = label_map(segment(network, sample, sample.features)).numpy()
        for predicted, truth in zip(labels, sample.labels, strict=True):
            for k, values in enumerate(seen):
                p, g = predicted == k, truth == k
                if (p | g).any():
                    values.append(((p & g).sum() / (p | g).sum(), f_measure(p, g)))
    table = np.array([np.mean(values, axis=0) if values else (0, 0) for values in seen])
    np.testing.assert_allclose([scores.M_J, scores.M_F], 100 * table.mean(axis=0), atol=1e-7)
    assert 1 < scores.M_J < 99
    assert scores.details["absent"] == [name for name, values in zip(classes, seen, strict=True) if not values]
    assert scores.details["frames"] == sum(semantic.clip(i).num_frames for i in range(len(semantic)))
    assert scores.details["padded_frames"] == 0
    assert {n: row["frames"] for n, row in scores.details["classes"].items()} == {
        name: len(values) for name, values in zip(classes, seen, strict=True) if values
    }


@pytest.mark.parametrize("kind", ["binary", "semantic"])
def test_one_pass_gives_every_protocol_as_alone(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = request.getfixturevalue(kind)
    network, names = Blobs(len(dataset.clips.classes)), [*PROTOCOLS[kind]]
    alone: dict[str, Scores] = {name: evaluate_dataset(network, dataset, [name])[name] for name in names}
    reads = []
    monkeypatch.setattr(
        ClipDataset, "__getitem__", lambda s, i, get=ClipDataset.__getitem__: reads.append(i) or get(s, i)
    )
    together = evaluate_dataset(network, dataset, names)
    assert reads == list(range(len(dataset)))
    assert together == alone
    assert list(together) == names
    assert len({s.protocol for s in together.values()}) == len(names)


def test_padding_adds_background_to_short_clips(semantic: ClipDataset) -> None:
    network = Blobs(len(semantic.clips.classes))
    scores = evaluate_dataset(network, semantic, ["published", "avsbench-padded"])
    plain, padded = scores.values()
    short = sum(semantic.clip(i).num_frames == 5 for i in range(len(semantic)))
    assert 0 < short < len(semantic)
    assert padded.details["padded_frames"] == 5 * short
    assert padded.details["frames"] == plain.details["frames"]
    background = [s.details["classes"].pop("background") for s in (plain, padded)]
    assert background[1]["frames"] == background[0]["frames"] + 5 * short
    assert plain.details["classes"] == padded.details["classes"]


def test_a_model_keeps_its_mode(binary: ClipDataset) -> None:
    network = Blobs(2).train()
    evaluate_dataset(network, binary)
    assert network.training


def test_names_that_do_not_fit_are_refused_with_those_that_do(binary: ClipDataset) -> None:
    with pytest.raises(BadInput, match=r"there is no protocol 'papers'; .*published, .*dataset-f.*avsbench-bsN"):
        evaluate_dataset(Blobs(2), binary, ["papers"])
    with pytest.raises(BadInput, match=r"'avsbench-padded' does not fit 2 classes; .*strict-empty"):
        find_protocol("avsbench-padded", 2)
    for name in ("dataset-f", "strict-empty", "avsbench-bs3"):
        with pytest.raises(
            BadInput, match=rf"{name!r} does not fit 71 classes; .*published, .*avsbench-padded"
        ) as error:
            find_protocol(name, 71)
        assert "avsbench-bsN" not in str(error.value)
    for name in ("avsbench-bs0", "avsbench-bs", "avsbench-bs-1", "avsbench-bs04", "Published", ""):
        with pytest.raises(BadInput, match="there is no protocol"):
            find_protocol(name, 2)


def test_any_batch_size_has_a_name() -> None:
    assert find_protocol("avsbench-bs4", 2) == BINARY["avsbench-bs4"]
    assert find_protocol("avsbench-bs17", 2).clips_per_call == 17
    assert "17 clips" in find_protocol("avsbench-bs17", 2).title


def test_a_run_is_scored_by_name(prepared: Path, config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(DataNames(prepared, "felzenszwalb", "logmel"), config, run)
    default, named = evaluate_run(run, protocols=["published", "avsbench-bs3"]).values()
    assert named.protocol == "avsbench-bs3: AVSBench at 3 clips per call"
    assert named.per_clip == default.per_clip
    (run / "best" / "model.safetensors").unlink()
    for state in (run / "checkpoints").rglob("state.pt"):
        state.unlink()
    with pytest.raises(BadInput, match="there is no protocol"):  # before the weights are looked for
        evaluate_run(run, protocols=["papers"])


def test_a_split_without_truth(binary: ClipDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(binary.clip(0), frame_annotated=(False,) * 5)
    monkeypatch.setattr(binary, "clip", lambda index: bare)
    with pytest.raises(BadInput, match="'train' has no annotated frame"):
        evaluate_dataset(Blobs(2), binary)


def test_every_protocol_is_documented() -> None:
    documented = re.findall(r"^\| `([a-zN0-9-]+)` \|", DOCS.read_text(), re.MULTILINE)
    binary = ["published", "avsbench-bsN", *(n for n in BINARY if n != "published" and "avsbench" not in n)]
    assert documented == [*binary, *SEMANTIC]


def test_names_can_be_typed() -> None:
    for names in PROTOCOLS.values():
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)
        assert len({p.title for p in names.values()}) == len(names)
