"""What a table of mutants is made of, and when one is well formed."""

from collections import Counter
from pathlib import Path
from types import CodeType
from typing import NamedTuple


class Mutant(NamedTuple):
    """One wrong edit of the product, which its tests must notice."""

    name: str  # what is wrong, in a few words; unique in all tables
    file: str  # relative to the package
    old: str  # occurs exactly once in the file
    new: str
    tests: tuple[str, ...]  # files, relative to the package

    def applied(self, source: str) -> str:
        """The file's text with the edit. Raises ValueError if `old` does not occur exactly once."""
        if (found := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} occurs {found} times in {self.file}, not once")
        return source.replace(self.old, self.new)


def edits(file: str, tests: str | tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    """The mutants of one file that the same tests notice. changes: name, old, new."""
    paths = (tests,) if isinstance(tests, str) else tests
    return [Mutant(name, file, old, new, paths) for name, old, new in changes]


def problems(mutants: list[Mutant], root: Path) -> list[str]:
    """What is wrong with the form of tables, without running anything. root: the package."""
    found = [f"{name}: {n} mutants have this name" for name, n in Counter(m.name for m in mutants).items() if n > 1]
    for mutant in mutants:
        missing = [path for path in (mutant.file, *mutant.tests) if not (root / path).is_file()]
        found += [f"{mutant.name}: there is no file {path}" for path in missing]
        if mutant.file not in missing and (wrong := _wrong_edit(mutant, (root / mutant.file).read_text())):
            found.append(wrong)
    return found


def _wrong_edit(mutant: Mutant, source: str) -> str | None:
    try:
        changed = _meaning(compile(mutant.applied(source), mutant.file, "exec"))
    except ValueError as error:
        return str(error)
    except SyntaxError as error:
        return f"{mutant.name}: {mutant.file} does not compile any more: {error}"
    same = changed == _meaning(compile(source, mutant.file, "exec"))
    return f"{mutant.name}: {mutant.file} means the same as before" if same else None


def _meaning(code: CodeType) -> tuple:
    """What code does, wherever its lines stand."""
    constants = [_meaning(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants
