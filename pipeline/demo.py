"""Run every step on synthetic clips, small enough for two CPU cores, and write a report."""

from pathlib import Path

import torch

from ..data.sources.synthetic.source import SyntheticSource, render_video
from ..data.sources.video.writer import write_video
from ..errors import ComboError
from ..model.combo import COMBO
from .common.text import columns
from .config.precompute import PrecomputeConfig
from .config.tree import load_config
from .evaluate.protocols import PUBLISHED
from .evaluate.scores import Scores, evaluate_dataset
from .imports.clips import import_clips
from .precompute.driver import plan_caches, run_plans
from .predict.predict import predict
from .report.demo_page import DemoResult, write_demo_page
from .runs.data import DataNames
from .runs.open import open_run
from .train.loop import train

SIZE = 96  # pixels
SHARD_FRAMES = 100  # a dozen shards, so that workers have something to share
PROPOSALS, AUDIO = "felzenszwalb", "logmel"
VIDEO_SECONDS = 12
MARGIN = 10  # points of M_J, by which the trained network must beat the others


def demo(out: Path, clips: int, steps: int, seed: int = 0) -> str:
    """Import, precompute, train, evaluate, predict and report; returns a summary. A second call resumes.

    Raises `ComboError` when the trained network is not clearly better than an untrained one, and than itself with the
    sound of other clips.
    """
    root, run = out / "cache", out / "run"
    import_clips(SyntheticSource("ms3", clips, seed, SIZE), root, SHARD_FRAMES)
    run_plans(plan_caches(root, PrecomputeConfig(), PROPOSALS, AUDIO), workers=None, scheduler=None)

    config = load_config("tiny", [f"train.steps={steps}", f"train.seed={seed}"])
    train(DataNames(root, PROPOSALS, AUDIO), config, run, resume=True)

    device = torch.device("cpu")
    trained = open_run(run, device)
    dataset, model = trained.data.dataset("test"), trained.network
    torch.manual_seed(seed)
    untrained = evaluate_dataset(COMBO(config.model, len(trained.info.classes)), dataset)[PUBLISHED]
    scores = {
        "trained": evaluate_dataset(model, dataset)[PUBLISHED],
        "trained, sound swapped between clips": evaluate_dataset(model, dataset, sound="swapped")[PUBLISHED],
        "untrained": untrained,
    }

    video = out / "video.mp4"
    made = render_video(seed + 1, VIDEO_SECONDS, fps=25, size=240)
    write_video(video, made.frames(), fps=25, audio=made.waveform.astype("float32"))
    predict(run, [video], out / "predict", device="cpu")

    page = out / "report.html"
    write_demo_page(page, DemoResult(run, dataset, model, device, scores, "predict/video/overlay.mp4"))
    return "\n".join([_table(scores), _verdict(scores), f"report: {page.absolute()}"])


def _table(scores: dict[str, Scores]) -> str:
    rows = [(name, f"{s.M_J:.1f}", f"{s.M_F:.1f}") for name, s in scores.items()]
    return "\n".join(columns([("test split", "M_J in %", "M_F in %"), *rows]))


def _verdict(scores: dict[str, Scores]) -> str:
    """Raises `ComboError` when the trained network is not clearly the best."""
    for name, other in scores.items():
        if name != "trained" and scores["trained"].M_J < other.M_J + MARGIN:
            raise ComboError(
                f"{_table(scores)}\nthe demo failed: M_J of the trained network is not {MARGIN} above that of {name!r}"
            )
    return "the trained network finds the sounding objects, and needs the sound to do so"
