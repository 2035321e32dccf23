"""The diagrams of the report, plotted by matplotlib as SVG."""

import re
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from .embed import curves, literal, smooth, svg
from .paired import Paired
from .targets import Run

POINTS = 400  # of one curve; a page does not show more


def run_curves(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what it shows, SVG) for the losses, the learning rate and the scores on val, as far as they were logged."""
    found = []
    if steps := [entry for entry in log if "total" in entry]:
        keys = ("total", *_last_terms(steps[-1]))
        losses = {re.sub(r"^loss_|_\d+$", "", key): _series(log, key, 20) for key in keys}
        what = "loss, all terms together, and each term of the last prediction that has it"
        found.append((what, curves(losses, "loss", log=True)))
        rates = {key: _series(log, key) for key in ("lr", "lr_backbone") if key in steps[-1]}
        found.append(("learning rate", curves(rates, "learning rate")))
    if any("M_J" in entry for entry in log):
        found.append(("score on val", curves({m: _series(log, m) for m in ("M_J", "M_F")}, "score on val, %")))
    return found


def joint_curves(runs: list[Run]) -> list[tuple[str, str]]:
    """The loss of several runs in one diagram, and M_J on val in another."""
    logs = {f"{run.variant}, seed {run.seed}": run.log for run in runs}
    losses = {name: series for name, log in logs.items() if (series := _series(log, "total", 20))[0]}
    scores = {name: series for name, log in logs.items() if (series := _series(log, "M_J"))[0]}
    found = [("loss of all runs", curves(losses, "loss, all terms", log=True))] if losses else []
    return found + ([("M_J on val of all runs", curves(scores, "M_J on val, %"))] if scores else [])


def score_bars(rows: list[dict[str, Any]], names: list[str]) -> str:
    """For rows as in compare.json: a bar for each mean, with its spread over seeds, and a dot for each seed."""
    figure, axes = plt.subplots(figsize=(6, 1.2 + 0.45 * len(rows)), layout="constrained")
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        positions = np.arange(len(rows)) + (index - (len(names) - 1) / 2) * height
        means = [np.nan if row[name]["mean"] is None else row[name]["mean"] for row in rows]  # nan: no bar
        spread = [row[name]["std"] or 0 for row in rows]
        axes.barh(positions, means, height * 0.9, xerr=spread, label=name, alpha=0.75, error_kw={"capsize": 3})
        for position, row in zip(positions, rows, strict=True):
            seeds = list(row[name]["by_seed"].values())
            axes.plot(seeds, [position] * len(seeds), "o", color="black", markersize=3)
    sounds = {row["sound"] for row in rows}
    labels = [_cut(row["variant"] + (f", {row['sound']} sound" if len(sounds) > 1 else "")) for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlabel="%", xlim=(0, None))
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg(figure)


def value_bars(values: dict[str, list[float]], label: str) -> str:
    """Mean and standard deviation over clips, one bar for each name; each has at least one value."""
    figure, axes = plt.subplots(figsize=(5.2, 1.0 + 0.4 * len(values)), layout="constrained")
    means, spread = [np.mean(v) for v in values.values()], [np.std(v) for v in values.values()]
    axes.barh(range(len(values)), means, xerr=spread, error_kw={"capsize": 3})
    axes.set_yticks(range(len(values)), [_cut(name) for name in values])
    axes.set(xlabel=label, xlim=(0, None))
    axes.invert_yaxis()
    return svg(figure)


def difference_plot(pair: Paired) -> str:
    """The difference on every clip, in order of size."""
    figure, axes = plt.subplots(figsize=(5.2, 3.0), layout="constrained")
    x = np.arange(len(pair.differences))
    axes.fill_between(x, pair.differences, step="mid", alpha=0.5)
    axes.plot(x, pair.differences, drawstyle="steps-mid", linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(pair.mean.mean, color="tab:red", linestyle="--", label="mean")
    axes.set(xlabel="clips, in order of the difference", ylabel=f"difference in {pair.what}")
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def _series(log: list[dict[str, Any]], key: str, window: int = 1) -> tuple[list[float], list[float]]:
    """Steps and values of the entries that have a key, at most `POINTS` of them; values are means over `window`."""
    entries = [entry for entry in log if key in entry]
    values = [float(entry[key]) for entry in entries]
    y = values if window == 1 else smooth(values, window)
    picks = np.unique(np.linspace(0, len(y) - 1, min(len(y), POINTS)).round().astype(int))
    return [float(entries[p]["step"]) for p in picks], [y[p] for p in picks]


def _last_terms(entry: dict[str, Any]) -> list[str]:
    """The key of each loss term for the last prediction that has it: the final one without a number, else a number."""
    last: dict[str, str] = {}
    for key in (key for key in entry if key.startswith("loss_")):
        term = re.sub(r"_\d+$", "", key)
        if last.get(term) != term:
            last[term] = key
    return list(last.values())


def _cut(name: str) -> str:
    return literal(name if len(name) <= 40 else f"{name[:39]}…")
