"""A small cache root with everything that training reads, made once."""

import os
import shutil
from pathlib import Path

import pytest

from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of child processes: tests share the cores

TINY = [
    "model.width=32",
    "model.heads=2",
    "model.num_queries=4",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.audio_hidden=16",
    "loss.num_points=64",
    "train.clips_per_batch=2",
]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write here; `root` is a copy to play with."""
    root = tmp_path_factory.mktemp("prepared")
    import_clips(SyntheticSource("ms3", 12, seed=0, size=64), root, shard_frames=20)
    run_plans(plan_caches(root, PrecomputeConfig(), "felzenszwalb", "logmel", None), workers=0, scheduler=None)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "root"))


@pytest.fixture(scope="session")
def config() -> Config:
    """The tiny preset, tinier: two steps take a second."""
    return load_config("tiny", [*TINY, "train.steps=2", "train.evaluate_every=2", "train.checkpoint_every=1"])
