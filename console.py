"""Turn the outcome of a command into an exit code and one message."""

import signal
import traceback
import warnings
from typing import Any

import typer

from .errors import BAD_INPUT, DONE, FAILED, INTERRUPTED, ComboError

STOPPED = "interrupted; run the same command again to continue"


def run(app: typer.Typer, arguments: list[str] | None) -> int:
    """Run the command line and return its exit code. Errors are printed to stderr."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a preempted job stops as on Ctrl-C
    try:
        code = app(arguments, prog_name="combo", standalone_mode=False) or DONE
    except ComboError as error:
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say(STOPPED, INTERRUPTED)
    except OSError as error:
        return _say(f"{error}; finished work is kept, run the same command again to continue", FAILED)
    except Exception as error:
        # A usage error has `show`. Its class cannot be named: some versions of typer bring their own click.
        if show := getattr(error, "show", None):
            show()
            return BAD_INPUT
        traceback.print_exc()
        return _say("this is a bug in combo; finished work is kept", FAILED)
    # 130 is how some versions of typer report Ctrl-C.
    return _say(STOPPED, INTERRUPTED) if code == 130 else code


def _say(message: str, code: int) -> int:
    typer.echo(f"combo: {message}", err=True)
    return code


def _show_warning(message: Warning | str, *_: Any) -> None:
    typer.echo(f"combo: warning: {message}", err=True)
