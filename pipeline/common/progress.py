"""Progress bars, and a clean stop on Ctrl-C and SIGTERM."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm


def bar(total: int, what: str, unit: str, *, done: int = 0, shown: bool = True) -> tqdm:
    """A progress bar on stderr, or a line every 30 s where that is no terminal."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=f" {unit}",
        mininterval=interval,
        dynamic_ncols=True,
        disable=not shown,
    )


@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set inside the block, for work that may stop only between its steps."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
