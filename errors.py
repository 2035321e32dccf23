"""The errors that end a command, with their exit codes."""

from collections.abc import Iterable
from difflib import get_close_matches

DONE, BAD_INPUT, QUARANTINED, INTERRUPTED, FAILED = 0, 1, 3, 4, 5


class ComboError(Exception):
    """A failure that users can act on. The message says what is wrong, where, and what to do."""

    exit_code = FAILED


class BadInput(ComboError):
    """Wrong input or usage; nothing was started."""

    exit_code = BAD_INPUT

    @classmethod
    def listing(cls, headline: str, problems: list[str], advice: str = "") -> "BadInput":
        """An error whose message lists all problems."""
        return cls("\n".join([headline, *(f"  - {p}" for p in problems), *([advice] if advice else [])]))


class Interrupted(ComboError):
    """Stopped by the user or the system; the same command resumes."""

    exit_code = INTERRUPTED


class ClipError(Exception):
    """One clip cannot be read: it is quarantined, and the run continues."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: "; did you mean ...?" with the nearest known one, or ""."""
    return "".join(f"; did you mean {nearest}?" for nearest in get_close_matches(word, list(known), n=1))
