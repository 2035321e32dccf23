"""The errors that end a command, and the exit code that each one means."""

DONE, BAD_INPUT, QUARANTINED, INTERRUPTED, FAILED = 0, 1, 3, 4, 5


class ComboError(Exception):
    """A failure that the user can act on. The message says what is wrong, where, and what to do."""

    exit_code = FAILED


class BadInput(ComboError):
    """Input or usage is wrong and nothing was started."""

    exit_code = BAD_INPUT

    @classmethod
    def listing(cls, headline: str, problems: list[str], advice: str = "") -> "BadInput":
        """One message that lists every problem found."""
        return cls("\n".join([headline, *(f"  - {p}" for p in problems), *([advice] if advice else [])]))


class Interrupted(ComboError):
    """Stopped by the user or the system; the same command resumes."""

    exit_code = INTERRUPTED


class ClipError(Exception):
    """One clip cannot be read; it is quarantined and the run goes on."""
