"""The pages: every shell block of README and tutorials runs on small data, or says why not; every command exists.

A comment on the line before a block says how:

    <!-- not run: WHY -->                 its commands are only held against the command line
    <!-- run with: OLD => NEW; ... -->    runs with every OLD, which must occur, replaced by NEW

A block without one runs as it is. What runs may hold nothing but `combo` commands; those of one page run one after the
other in one folder. It holds, as a reader would have them: AVSBench/ (synthetic clips in its layout), holiday.mp4,
concert.mp4, demo/run (a trained run), shared/. Commands get the options of `SMALL`, so that a page takes seconds.
"""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

import combo_avs
from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.errors import DONE
from combo_avs.pipeline.compare.variants import plan_variants
from combo_avs.pipeline.config.tree import load_config

ROOT = Path(combo_avs.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNABLE = [p for p in PAGES if p.name in ("README.md", "paper.md") or p.name.startswith("tutorial-")]
OTHER_LANGUAGES = ("text", "python", "toml", "yaml", "json", "")

TINY = "train.steps=2 train.clips_per_batch=2 model.width=32 model.heads=2 model.num_queries=4 model.encoder_layers=1"
TINY_SETTINGS = [part for setting in [*TINY.split(), "loss.num_points=64"] for part in ("--set", setting)]
IMPORT = ["--size", "64", "--shard-frames", "20"]
SMALL = {
    "import avsbench": IMPORT,
    "import synthetic": IMPORT,
    "import videos": IMPORT,
    "precompute": ["--workers", "0"],
    "train": TINY_SETTINGS,
    "compare": TINY_SETTINGS,
}


@dataclass(frozen=True)
class Block:
    """A shell block of a page, the line it begins at, and what the comment before it says."""

    page: Path
    line: int
    comment: str
    text: str

    @property
    def is_run(self) -> bool:
        return not self.comment.startswith("not run:")

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    pattern = r"(?:^<!-- ((?:not run|run with): [^\n]+) -->\n)?^```sh\n(.*?)^```$"
    text = page.read_text()
    found = re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    return [Block(page, text[: m.start(2)].count("\n") + 1, m[1] or "", m[2]) for m in found]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every line of a shell text, comments left out and continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def combo_arguments(words: list[str]) -> list[str] | None:
    """What `combo` gets on a line, also behind torchrun, before a pipe and the like; None: no such command on it."""
    if "combo_avs" in words and words[words.index("combo_avs") - 1] == "-m":
        words = ["combo", *words[words.index("combo_avs") + 1 :]]
    if words[0] != "combo":
        return None
    end = next((k for k, word in enumerate(words) if word in ("|", ">", "&", "&&", ";")), len(words))
    return words[1:end]


def check(arguments: list[str]) -> None:
    """Hold a command against the command line: it exists, takes these options, its settings are allowed ones."""
    command, rest, name = get_command(app), arguments, "combo"
    while hasattr(command, "commands"):
        assert rest, f"combo {shlex.join(arguments)}: a group, not a command"
        name, rest = rest[0], rest[1:]
        assert name in command.commands, f"no command {name!r}: combo {shlex.join(arguments)}"
        command = command.commands[name]
    if "..." in rest:
        options = {o for parameter in command.params for o in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, shlex.join(arguments)
        return
    context = command.make_context(name, rest)
    values, varied, presets = context.params, [()], [context.params.get("preset")]
    if name == "compare":
        variants = plan_variants(values["over"] or [], values["proposals"] or "p", values["audio"] or "a")
        varied, presets = [variant.overrides for variant in variants], values["preset"]
    for preset, overrides in itertools.product(presets, varied):
        load_config(preset, [*(values.get("settings") or []), *overrides])


def substituted(block: Block) -> str:
    text = block.text.replace("\\\n", " ")
    text = re.sub(r"  +", " ", text)
    for pair in filter(None, block.comment.removeprefix("run with:").split(";")):
        old, new = (part.strip() for part in pair.split("=>"))
        assert old in text, f"{block}: {old!r} is to be replaced and does not occur"
        text = text.replace(old, new)
    return text


def combo(*arguments: object) -> None:
    assert run(app, [str(a) for a in arguments]) == DONE, shlex.join(map(str, arguments))


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every page's folder begins with."""
    from combo_avs.data.sources.synthetic.source import render_video
    from combo_avs.data.sources.video.writer import write_video

    home = tmp_path_factory.mktemp("docs")
    clips = ("--flavour", "ms3", "--clips", 12, "--seed", 0)
    combo("import", "synthetic", home / "demo/cache", *clips, *IMPORT, "--avsbench", home / "AVSBench")
    caches = ("--proposals", "felzenszwalb", "--audio", "logmel")
    combo("precompute", home / "demo/cache", *caches, *SMALL["precompute"])
    combo("train", home / "demo/cache", "--preset", "tiny", *caches, "--out", home / "demo/run", *SMALL["train"])
    for seed, name in enumerate(("holiday.mp4", "concert.mp4")):
        video = render_video(seed, 6, fps=5, size=64)
        write_video(home / name, video.frames(), fps=5, audio=video.waveform.astype("float32"))
    (home / "shared").mkdir()
    return home


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda p: p.name)
def test_shell_blocks_run(page: Path, laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMBO_OFFLINE", "1")
    monkeypatch.setenv("COMBO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(shutil.copytree(laid_out, tmp_path / "home"))
    for block in filter(lambda b: b.is_run, blocks_of(page)):
        for words in command_lines(substituted(block)):
            arguments = combo_arguments(words)
            assert arguments is not None, f"{block}: {shlex.join(words)!r} cannot be run here; say why not"
            name = next((n for n in SMALL if arguments[: len(n.split())] == n.split()), None)
            combo(*arguments, *SMALL.get(name, []))


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda p: p.name)
def test_no_block_is_passed_over(page: Path) -> None:
    """Every fence is a known one, every comment stands before a block, and no command hides in an indented block."""
    lines = page.read_text().splitlines()
    fences = [line for line in lines if line.startswith("```")]
    assert all(fence[3:] in ("sh", *OTHER_LANGUAGES) for fence in fences[::2])
    assert fences[1::2] == ["```"] * len(fences[1::2])
    assert fences.count("```sh") == len(blocks_of(page))
    comments = [line for line in lines if line.startswith("<!--")]
    assert len(comments) == sum(b.comment != "" for b in blocks_of(page))
    within = "\n".join(b.text for b in blocks_of(page))
    assert [line for line in lines if re.match(r" {4,}(combo|torchrun) ", line) and line not in within] == []


def mentioned(page: Path) -> Iterator[list[str]]:
    """What `combo` gets in all shell blocks of a page, run or not, and in its indented ones."""
    unfenced = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    indented = "\n".join(re.findall(r"^ {4}(.*)$", unfenced, re.MULTILINE))
    for text in [*(b.text for b in blocks_of(page)), indented]:
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"\s*combo |.*-m combo_avs ", line):  # indented ones may be Python, which has no shell words
                yield from filter(None, map(combo_arguments, command_lines(line)))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_exists(page: Path) -> None:
    for arguments in mentioned(page):
        check(arguments)


def test_a_wrong_command_is_noticed() -> None:
    check(["cache", "info", "ROOT"])
    for wrong in (
        "cache",
        "cache information ROOT",
        "cache info",
        "cache info ROOT --yaml",
        "train --set train.stops=1",
        "compare ROOT --preset tiny --out OUT --over fusion=none,nun",
        "compare ROOT --preset tiny --preset huge --out OUT",
    ):
        with pytest.raises(Exception, match=r"."):
            check(wrong.split())


def test_readme_names_every_generator_and_encoder() -> None:
    from combo_avs.model.audio import ENCODERS
    from combo_avs.model.foundation import GENERATORS

    text = (ROOT / "README.md").read_text()
    assert [name for name in (*GENERATORS, *ENCODERS) if f"`{name}`" not in text] == []


def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    """A page that the navigation leaves out, a broken link and a broken anchor are warnings, and so errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) >= len(PAGES)
    loaded = r'(?:src|href)="(?:https?:)?//[^"]*\.(?:js|css|woff2?)'
    assert [p.name for p in pages if re.search(loaded, p.read_text())] == []
