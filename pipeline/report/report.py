"""`combo report`: one page of caches, training runs and comparisons, with its pictures and sounds beside it."""

import shutil
from pathlib import Path

from ...data.clip import SPLITS
from ...data.store.location import Location
from ...errors import BadInput
from ...files import write_atomic
from ..common.devices import pick_device
from ..common.places import check_no_data
from ..common.statistics import CLIPS_FOR_BOOTSTRAP, RESAMPLES
from ..compare.comparable import Scoring, cautions
from ..compare.table import spread
from ..evaluate.protocols import find_protocol
from .caches import CacheSection, cache_section
from .embed import templates
from .gallery import FILES
from .plots import difference_plot, joint_curves, run_curves, score_bars, value_bars
from .runs import RunSection, consistency, run_sections, untrained_parts
from .targets import Targets, find_targets

PAGE = "index.html"
INTERVALS = (
    f"Intervals over clips: percentile bootstrap, {RESAMPLES} resamples from a fixed seed. Fewer than "
    f"{CLIPS_FOR_BOOTSTRAP} clips: Student's t, marked (t). One clip: none."
)


def report(targets: list[Path], out: Path, scoring: Scoring, device: str, root: str | Location | None = None) -> Path:
    """Write `out`/index.html about run folders, comparisons, cache roots and caches. Returns its path.

    Caches show all splits. What is missing or damaged is listed at the top of the page. An earlier report in `out` is
    replaced. root: where the clips and caches of the runs are now; None: where each run says.
    Raises `BadInput` when a target cannot be shown, when `out` holds something else, and for a split or protocol that
    does not fit.
    """
    if scoring.split not in SPLITS:
        raise BadInput(f"there is no split {scoring.split!r}; there are {', '.join(SPLITS)}")
    found = find_targets(targets, root)
    for run in found.runs:
        find_protocol(scoring.protocol, len(run.info.classes))
    where = pick_device(device)
    _make_room(out)
    roots = enumerate(found.roots.items())
    caches = [cache_section(root, names, out, f"cache-{n}", found.problems) for n, (root, names) in roots]
    runs = run_sections(found.runs, out, scoring, where, found.problems)
    write_atomic(out / PAGE, render(found, caches, runs))
    return out / PAGE


def _make_room(out: Path) -> None:
    """Make the folder, and empty it but for the page of an earlier report, which is replaced last."""
    check_no_data(out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder for the report")
    if out.exists() and (others := sorted({p.name for p in out.iterdir()} - {PAGE, FILES})):
        raise BadInput(f"{out} holds other files ({', '.join(others[:5])}); name an empty folder, or that of a report")
    shutil.rmtree(out / FILES, ignore_errors=True)
    (out / FILES).mkdir(parents=True)


def render(found: Targets, caches: list[CacheSection], runs: list[RunSection]) -> str:
    """The page as HTML; all text in it is escaped."""
    environment = templates()
    plots = run_curves, joint_curves, score_bars, value_bars, difference_plot
    functions = *plots, spread, consistency, untrained_parts
    environment.globals["interval_note"] = INTERVALS
    environment.globals |= {function.__name__: function for function in functions}
    return environment.get_template("report.html").render(
        found=found,
        caches=caches,
        runs=runs,
        table_cautions=cautions([subject for table in found.tables.values() for subject in table["subjects"]]),
    )
