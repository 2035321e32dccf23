"""Models of other packages: found by entry point, imported by name only, and blamed by name when they are broken."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contracts import ProposalGeneratorContract
from fakes import NoiseSource

import combo_avs
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput, ComboError
from combo_avs.model.audio import encoder, encoder_names
from combo_avs.model.foundation import generator, generator_names
from combo_avs.pipeline.imports.clips import import_clips

EXAMPLE = Path(combo_avs.__file__).parent / "examples" / "combo-avs-example-plugin"
GENERATORS, ENCODERS = "combo_avs.generators", "combo_avs.audio_encoders"
HEAD = "from combo_avs.model.builders import Entry\nfrom combo_avs.base import Section\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts a package with one entry point and one module on the path, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(package: str, group: str, name: str, code: str) -> None:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{module}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:ENTRY\n")

    yield install
    for module in [m for m in sys.modules if m.startswith("their_")]:
        del sys.modules[module]


class TestExample(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self, monkeypatch):
        monkeypatch.syspath_prepend(EXAMPLE)
        import combo_avs_grid

        yield combo_avs_grid.ENTRY.build(combo_avs_grid.GridConfig(cells=3))
        del sys.modules["combo_avs_grid"]

    def test_it_is_as_short_as_promised(self):
        lines = (EXAMPLE / "combo_avs_grid.py").read_text().splitlines()
        assert sum(bool(line.strip()) for line in lines) <= 30


def test_the_example_installs_and_runs(tmp_path: Path) -> None:
    source = shutil.copytree(EXAMPLE, tmp_path / "source")  # a build leaves files behind
    target, root = tmp_path / "target", tmp_path / "root"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True)
    import_clips(NoiseSource(clips=2), root)

    settings = ["--set", "precompute.generator.cells=2", "--workers", "0"]
    command = [sys.executable, "-m", "combo_avs", "precompute", root, "--proposals", "grid", *settings]
    environment = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cache = open_cache(ClipStore(root), "proposals", "grid")
    assert cache.provenance.parameters == {"cells": 2}
    masks = cache.read_masks(0, 1)[0]
    assert masks.shape == (4, 16, 16)
    assert (masks.sum(0) == 1).all()


def test_an_audio_encoder_of_any_width(installed) -> None:
    code = HEAD + (
        "import torch\n"
        "class Config(Section):\n"
        "    dim: int = 3\n"
        "class Encoder:\n"
        "    name, version, parameters, weights_sha256 = 'level', '1', {}, None\n"
        "    def __init__(self, config):\n"
        "        self.dim = config.dim\n"
        "    def __call__(self, log_mel, waveform):\n"
        "        return waveform.abs().mean(1, keepdim=True).expand(-1, self.dim)\n"
        "    def to(self, device):\n"
        "        return self\n"
        "ENTRY = Entry(Config, Encoder)\n"
    )
    installed("their-level", ENCODERS, "level", code)
    assert encoder("level", {"dim": 7})(torch.zeros(2, 96, 64), torch.ones(2, 16_000)).shape == (2, 7)
    with pytest.raises(BadInput, match=r"(?s)audio encoder 'level'.*width.*Its parameters: dim"):
        encoder("level", {"width": 7})


def test_nothing_is_imported_before_it_is_named(installed) -> None:
    installed("their-loud", GENERATORS, "loud", "raise SystemError('imported')")
    generator("none", {})
    with pytest.raises(BadInput, match=r"known: .*felzenszwalb, loud \(their-loud 1\.2\), mobile-sam"):
        generator("quiet", {})
    assert "loud (their-loud 1.2)" in generator_names()
    assert not any("loud" in name for name in encoder_names())
    assert "their_loud" not in sys.modules


def test_our_name_wins_and_says_so(installed, caplog) -> None:
    installed("their-none", GENERATORS, "none", "raise SystemError('imported')")
    with caplog.at_level(logging.WARNING):
        assert type(generator("none", {})).__module__ == "combo_avs.model.foundation.none"
    assert "'none': ours is used, not the one of their-none 1.2" in caplog.text


def test_two_packages_with_one_name(installed) -> None:
    for package in ("their-a", "their-b"):
        installed(package, GENERATORS, "twice", "raise SystemError('imported')")
    with pytest.raises(BadInput, match=r"several packages .* 'twice': their-a 1\.2, their-b 1\.2; uninstall"):
        generator("twice", {})


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("import surely_not_there", BadInput, "cannot be imported from their_x:ENTRY: ModuleNotFoundError"),
        ("1 / 0", BadInput, "cannot be imported from their_x:ENTRY: ZeroDivisionError"),
        ("OTHER = 1", BadInput, "cannot be imported from their_x:ENTRY: AttributeError"),
        ("ENTRY = 1", BadInput, "their_x:ENTRY is a int, not an Entry"),
        (HEAD + "ENTRY = Entry(Section, lambda config: 1 / 0)", ComboError, "cannot be built: ZeroDivisionError"),
        (HEAD + "ENTRY = Entry(Section, lambda config: 1)", BadInput, "a int without name, version, parameters"),
    ],
)
def test_a_broken_plug_in_is_named(installed, code: str, error: type[ComboError], says: str) -> None:
    installed("their-x", GENERATORS, "x", code)
    with pytest.raises(error) as raised:
        generator("x", {})
    assert "the proposal generator 'x' of the package their-x 1.2" in str(raised.value)
    assert says in str(raised.value)


def test_what_a_plug_in_refuses_is_passed_on(installed) -> None:
    code = HEAD + (
        "from combo_avs.errors import BadInput\n"
        "def build(config):\n"
        "    raise BadInput('no weights here')\n"
        "ENTRY = Entry(Section, build)\n"
    )
    installed("their-x", GENERATORS, "x", code)
    with pytest.raises(BadInput, match=r"^no weights here$"):
        generator("x", {})
