"""Text for people: sizes, tables, quarantined clips. Imports nothing heavy."""


def megabytes(size: int) -> str:
    """Bytes as text, for example 12.3 MB."""
    return f"{size / 1e6:.1f} MB"


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table: every column as wide as its longest cell, two spaces between columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def quarantine_lines(quarantined: dict[str, str]) -> list[str]:
    """For each clip, its id and the last line of the reason, which names the error."""
    return [f"{clip}: {reason.splitlines()[-1]}" for clip, reason in quarantined.items()]
