"""Numbered findings, for scripts and people. A number never changes its meaning; docs/doctor.md lists them."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ...errors import BAD_INPUT, DONE

Severity = Literal["error", "warning", "note"]
MAX_ITEMS = 5  # of a finding in the text; JSON has all


class Rule(NamedTuple):
    severity: Severity
    what: str
    advice: str


RULES: dict[str, Rule] = {
    "D101": Rule("error", "a required package is missing or too old", "pip install the versions named"),
    "D102": Rule("note", "an optional part is not installed", "pip install 'combo-avs[PART]' if you need it"),
    "D103": Rule("note", "no GPU: everything runs on the CPU", "fine for trying out; use a GPU for full data sets"),
    "D104": Rule("warning", "torch cannot use the GPU", "install a torch whose CUDA fits the driver (see nvidia-smi)"),
    "D105": Rule("note", "a GPU without bf16", "use fp16 instead of bf16"),
    "D106": Rule("warning", "little memory is free", "stop other programs, or raise the limit of the container or job"),
    "D107": Rule("warning", "little disk is free", "make room, or work on another disk"),
    "D110": Rule("note", "no weight files are here", "'combo weights list' shows what can be fetched"),
    "D111": Rule("error", "a weight file is damaged", "run 'combo weights fetch' with its name"),
    "D201": Rule("error", "nothing is here, or it cannot be reached", "check the name, mounts and credentials"),
    "D202": Rule("error", "files cannot be written and read back", "check permissions, quota and mount options"),
    "D203": Rule("warning", "the cache root is read-only", "fine for training; else check permissions and mounts"),
    "D204": Rule("error", "renaming does not replace a file atomically", "use another file system for caches and runs"),
    "D205": Rule("error", "files or folders cannot be flushed (fsync)", "use another file system for caches and runs"),
    "D206": Rule("error", "files cannot be locked", "mount it with locks (NFS: with a lock daemon; Lustre: -o flock)"),
    "D207": Rule("error", "files cannot be memory-mapped", "use another file system for caches"),
    "D208": Rule(
        "note",
        "no data set, root, run or weights: tested as a place for caches",
        "if unintended, name the right folder",
    ),
    "D301": Rule("error", "the clip list cannot be used", "use the official list, or fix what is named"),
    "D302": Rule("warning", "the clips are not the official ones", "complete the download: scores are not comparable"),
    "D303": Rule("error", "files are missing", "extract the archives again; the import refuses the set until then"),
    "D304": Rule("error", "files cannot be read", "extract them again; the import refuses them or leaves the clip out"),
    "D305": Rule("error", "pictures that differ from the others in size or mode", "use the official files"),
    "D306": Rule("error", "more pictures than frames in a folder", "remove them; the video may be cut differently"),
    "D307": Rule("error", "mask values that are no class", "use the official masks; the import leaves these clips out"),
    "D308": Rule("warning", "masks of 0 and 1", "read correctly here; the published loaders read them as empty"),
    "D309": Rule("warning", "masks with grey values", "thresholded at one half here, not by published loaders"),
    "D310": Rule("note", "frames in which nothing sounds", "part of the data set; each protocol says how they count"),
    "D311": Rule("warning", "float WAVs", "the published reader hears silence: convert to 16-bit to compare"),
    "D312": Rule("note", "sounds shorter than their clips", "padded as in the published code; the import notes it"),
    "D313": Rule("note", "object names that are no class", "nothing: labels come from the masks"),
    "D314": Rule("note", "ids that start with a hyphen", "on command lines put -- or ./ before them"),
    "D315": Rule("note", "hidden files", "harmless here; loaders that list folders take them for clips"),
    "D316": Rule("warning", "files that no list names", "harmless here; loaders that list folders read them"),
    "D317": Rule("note", "classes that no test clip names", "they only lower means over all classes; see metrics.md"),
    "D318": Rule("warning", "frames are not 224 x 224", "import with the --size named; published scores are at 224"),
    "D320": Rule(
        "warning",
        "clips that share their source video with another split",
        "scores partly reward memorising; also report on 'combo import avsbench --split source-aware'",
    ),
    "D401": Rule("error", "a store cannot be opened", "run the command that made it again"),
    "D402": Rule("error", "a store is damaged", "run 'combo cache verify', then the command that made it"),
    "D403": Rule("warning", "a store is not finished", "run the command that made it again; it resumes"),
    "D404": Rule("warning", "clips are quarantined", "fix or accept them; 'combo cache info' lists the reasons"),
    "D405": Rule("warning", "a cache was made from other clips", "delete it, and run 'combo precompute' again"),
    "D406": Rule("note", "clips with something odd about them", "'combo cache info' says what"),
    "D501": Rule("error", "a run cannot be read", "restore config.yaml and run.json, or train again"),
    "D502": Rule("error", "a checkpoint is damaged", "remove it; the run resumes from the one before"),
    "D503": Rule("error", "the best weights are damaged", "remove RUN/best; the newest checkpoint is used then"),
    "D504": Rule("warning", "the run has no weights yet", "train it: 'combo train ... --resume auto'"),
    "D505": Rule("warning", "the clips or caches of the run are gone or have changed", "restore what is named"),
    "D506": Rule("warning", "the loss was not finite at a step", "lower train.lr, or 'combo replay RUN/broken/step-N'"),
}


@dataclass(frozen=True)
class Finding:
    """Something to know or to do. where: file, folder, URL or part of the machine. items: all that it concerns."""

    code: str
    where: str
    detail: str = ""
    items: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return RULES[self.code].severity

    def to_json(self) -> dict[str, Any]:
        rule = RULES[self.code]
        about = {"code": self.code, "severity": rule.severity, "what": rule.what, "where": self.where}
        return {**about, "detail": self.detail, "items": list(self.items), "advice": rule.advice}

    def __str__(self) -> str:
        rule = RULES[self.code]
        lines = [f"{self.code} {rule.severity}: {rule.what}{f': {self.detail}' if self.detail else ''}"]
        lines += [f"     in {self.where}", *(f"     - {item}" for item in self.items[:MAX_ITEMS])]
        if len(self.items) > MAX_ITEMS:
            lines.append(f"     ... and {len(self.items) - MAX_ITEMS} more; --json lists all")
        return "\n".join([*lines, f"     -> {rule.advice}"])


@dataclass
class Report:
    """What was examined and found. machine and paths hold JSON values."""

    machine: dict[str, Any]
    paths: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def count(self, severity: Severity) -> int:
        return sum(f.severity == severity for f in self.findings)

    @property
    def exit_code(self) -> int:
        """1 if there is any error, else 0, whatever the warnings and notes."""
        return BAD_INPUT if self.count("error") else DONE

    def to_json(self) -> dict[str, Any]:
        counts = {f"{s}s": self.count(s) for s in ("error", "warning", "note")}
        found = [f.to_json() for f in self.findings]
        return {"ok": not counts["errors"], **counts, "machine": self.machine, "paths": self.paths, "findings": found}

    def __str__(self) -> str:
        order = sorted(self.findings, key=lambda f: ("error", "warning", "note").index(f.severity))
        summary = ", ".join(f"{n} {s}{'s' * (n != 1)}" for s in ("error", "warning", "note") for n in [self.count(s)])
        facts = [_show_facts("machine", self.machine), *(_show_facts(p["path"], p) for p in self.paths)]
        return "\n\n".join([*facts, *map(str, order), summary])


def _show_facts(title: str, facts: dict[str, Any]) -> str:
    return "\n".join([title, *(f"  {name:<12} {_show(value)}" for name, value in facts.items() if name != "path")])


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_show, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
