"""A small cache root with everything that training reads, made once."""

import os
import shutil
from pathlib import Path

import pytest
from tiny_network import TINY

from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of child processes: tests share the cores


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write here; `root` is a copy to play with."""
    root = tmp_path_factory.mktemp("prepared")
    import_clips(SyntheticSource("ms3", 12, seed=0, size=64), root, shard_frames=20)
    run_plans(plan_caches(root, PrecomputeConfig(), "felzenszwalb", "logmel"), workers=0, scheduler=None)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "root"))


@pytest.fixture(scope="session")
def config() -> Config:
    """Two steps, scored after the second, with a checkpoint after each."""
    return load_config("tiny", [*TINY, "train.steps=2", "train.evaluate_every=2", "train.checkpoint_every=1"])
