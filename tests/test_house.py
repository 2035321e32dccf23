"""The house itself: what is packaged, what stands where, and what the README promises."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import combo_avs

ROOT = Path(combo_avs.__file__).parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def listed(section: str, key: str) -> set[str]:
    return set(SETUP[section][key].split())


def test_every_package_folder_is_listed() -> None:
    folders = {p.parent.relative_to(ROOT) for p in ROOT.rglob("__init__.py") if not p.is_relative_to(ROOT / ".venv")}
    names = {".".join(["combo_avs", *f.parts]) for f in folders if "build" not in f.parts}
    assert names == listed("options", "packages")


def test_constraints_pin_every_dependency_within_its_range() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    extras = "".join(SETUP["options.extras_require"].values())
    for line in (SETUP["options"]["install_requires"] + extras).strip().splitlines():
        requirement = Requirement(line)
        if requirement.name == SETUP["metadata"]["name"]:  # one extra names others
            continue
        assert requirement.specifier.contains(pins[requirement.name.lower()]), line


def test_import_contracts_are_kept() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("pattern", [r"pickle\.loads?\(", r"weights_only *= *False", r"allow_pickle *= *True"])
def test_nothing_loads_pickles_freely(pattern: str) -> None:
    sources = [p for room in ("data", "model", "pipeline") for p in (ROOT / room).rglob("*.py")]
    assert [p.name for p in sources if re.search(pattern, p.read_text())] == []


def test_the_wheel_holds_the_package_and_nothing_beside_it(tmp_path: Path) -> None:
    unneeded = shutil.ignore_patterns(".*", "build", "demo", "tests", "*.egg-info")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=unneeded)  # a build leaves files behind
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path]
    subprocess.run([*command, source], check=True, timeout=120)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {n.split("/")[0].split("-")[0] for n in names} == {"combo_avs"}
    for needed in (
        "cli.py",
        "pipeline/config/presets/tiny.yaml",
        "pipeline/report/demo.html",
        "model/foundation/none.py",
    ):
        assert f"combo_avs/{needed}" in names


def test_readme_commands_exist() -> None:
    from test_cli import commands

    known = {" ".join(c) for c in commands() if c}
    used = re.findall(r"^combo ((?:import |cache )?[a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert used
    assert set(used) <= known, set(used) - known
