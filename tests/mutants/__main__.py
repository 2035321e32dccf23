"""PYTHONPATH=tests python -m mutants: each wrong edit of the tables must be noticed by the tests of its room."""

import argparse
import os
import runpy
import sys
from pathlib import Path

from . import clips, data, frozen, losses, model, pipeline, results
from .runner import Broken, Outcome, check_unchanged, copies, judge
from .table import Mutant, problems

PACKAGE = Path(__file__).parents[2]
TABLES = {
    "clips": clips.MUTANTS,
    "data": data.MUTANTS,
    "frozen": frozen.MUTANTS,
    "losses": losses.MUTANTS,
    "model": model.MUTANTS,
    "pipeline": pipeline.MUTANTS,
    "results": results.MUTANTS,
}


def main() -> int:
    """Returns 0 if every mutant is killed, 1 if one survives, 2 if the tests or tables cannot judge."""
    arguments = _arguments()
    mutants = [m for m in _mutants(arguments.table) if any(part in f"{m.file} {m.name}" for part in arguments.only)]
    if arguments.list:
        print("\n".join(f"{m.file}: {m.name}" for m in mutants))
        return 0
    if not mutants:
        print(f"no mutant has {' or '.join(arguments.only)} in its file or name; --list shows all", file=sys.stderr)
        return 2
    if wrong := problems(mutants, PACKAGE):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    jobs = min(len(mutants), os.cpu_count() or 1 if arguments.jobs == "logical" else int(arguments.jobs))
    try:
        with copies(PACKAGE, jobs) as places:
            check_unchanged(places[0], mutants, jobs)
            outcomes = judge(mutants, places, _print)
    except Broken as error:
        print(error, file=sys.stderr)
        return 2
    survivors = [outcome.mutant for outcome in outcomes if outcome.killer is None]
    for mutant in survivors:
        print(f"\nsurvives: {mutant.name}\n  {mutant.file}\n- {mutant.old}\n+ {mutant.new}\n  {' '.join(mutant.tests)}")
    print(f"\n{len(outcomes)} mutants, {len(survivors)} survivors")
    return bool(survivors)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--only", action="append", metavar="PART", help="part of a name or file; may be repeated")
    parser.add_argument("--table", type=Path, help="a Python file with a list MUTANTS, instead of the tables here")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--jobs", default="logical", help="how many at once; logical: one per core")
    arguments = parser.parse_args()
    arguments.only = arguments.only or [""]
    return arguments


def _mutants(table: Path | None) -> list[Mutant]:
    return runpy.run_path(str(table))["MUTANTS"] if table else [m for room in TABLES.values() for m in room]


def _print(outcome: Outcome) -> None:
    verdict = f"killed by {outcome.killer}" if outcome.killer else "SURVIVES"
    print(f"{verdict} in {outcome.seconds:.0f} s: {outcome.mutant.name} ({outcome.mutant.file})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
