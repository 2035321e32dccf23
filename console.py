"""From an outcome to an exit code and one message."""

import signal
import traceback
import warnings
from typing import Any

import typer

from .errors import BAD_INPUT, DONE, FAILED, INTERRUPTED, ComboError

STOPPED = "interrupted; run the same command again to go on"


def run(app: typer.Typer, arguments: list[str] | None) -> int:
    """Run the command line and give its exit code; whatever went wrong is on stderr."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a preempted job stops as with Ctrl-C
    try:
        code = app(arguments, prog_name="combo", standalone_mode=False) or DONE
    except ComboError as error:
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say(STOPPED, INTERRUPTED)
    except OSError as error:
        return _say(f"{error}; what was finished is kept, run the same command again to go on", FAILED)
    except Exception as error:
        if hasattr(error, "show"):  # a usage error; some versions of typer bring their own click, so no class to name
            error.show()
            return BAD_INPUT
        traceback.print_exc()
        return _say("this is a defect of combo; what was finished is kept", FAILED)
    # 130 is how some versions of typer report Ctrl-C.
    return _say(STOPPED, INTERRUPTED) if code == 130 else code


def _say(message: str, code: int) -> int:
    typer.echo(f"combo: {message}", err=True)
    return code


def _show_warning(message: Warning | str, *_: Any) -> None:
    typer.echo(f"combo: warning: {message}", err=True)
