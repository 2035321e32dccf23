"""Parts of pages: templates, and pictures, curves and sounds as data URLs, for pages that consist of one file."""

import base64
import io

import matplotlib
import numpy as np
import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image

from ...data.clip import SAMPLE_RATE

plt.switch_backend("svg")  # never a window, whatever the machine has


def templates() -> Environment:
    """The page templates of this folder; text put into them is escaped, and an unknown name is an error."""
    return Environment(loader=PackageLoader(str(__package__), "."), autoescape=True, undefined=StrictUndefined)


def png(image: np.ndarray) -> str:
    """uint8 [H, W, 3] or [H, W]."""
    Image.fromarray(image).save(buffer := io.BytesIO(), "PNG", optimize=True)
    return _data_url("image/png", buffer.getvalue())


def wav(waveform: np.ndarray) -> str:
    """int16 [samples], mono, 16 kHz."""
    soundfile.write(buffer := io.BytesIO(), waveform, SAMPLE_RATE, format="WAV")
    return _data_url("audio/wav", buffer.getvalue())


def log_mel_image(log_mel: np.ndarray) -> np.ndarray:
    """An image of a log-mel: float32 [T, 96, 64] to uint8 [64, T x 96, 3]; low bands at the bottom, silence dark."""
    picture = np.concatenate(list(log_mel)).T[::-1]
    shade = np.clip((picture + 4.605) / 6.0, 0, 1)
    return (matplotlib.colormaps["magma"](shade)[..., :3] * 255).astype(np.uint8)


def curves(series: dict[str, tuple[list[float], list[float]]], ylabel: str, *, log: bool = False) -> str:
    """Plot series over training steps, name -> (steps, values), as SVG. log: with a logarithmic axis, if it can be."""
    log = log and all(value > 0 for _, y in series.values() for value in y)
    figure, axes = plt.subplots(figsize=(5.2, 3.0), layout="constrained")
    for name, (x, y) in series.items():
        axes.plot(x, y, label=literal(name), marker="o" if len(x) < 20 else None, markersize=4)
    axes.set(xlabel="training step", ylabel=ylabel, yscale="log" if log else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        low, high = axes.get_ylim()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def literal(name: str) -> str:
    """A label that matplotlib shows as it is: dollar signs are no mathematics, a leading underscore hides nothing."""
    return f"\u200b{name}".replace("$", r"\$")


def svg(figure: Figure) -> str:
    """A figure as SVG, closed afterwards."""
    figure.savefig(buffer := io.StringIO(), format="svg", metadata={"Date": None})
    plt.close(figure)
    return _data_url("image/svg+xml", buffer.getvalue().encode())


def smooth(values: list[float], window: int) -> list[float]:
    """The running mean over the last `window` values."""
    sums = np.cumsum([0.0, *values])
    return [(sums[i + 1] - sums[max(0, i + 1 - window)]) / min(i + 1, window) for i in range(len(values))]


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
