"""The command line of the recorded experiments."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.run_folder import Interrupted
from helpers.runtime import CourseError, offline, output_folder, prepare_libraries
from tools.record import EXPERIMENTS
from tools.record.table import record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_libraries()
    offline()
    if arguments[:1] == ["qwen"]:
        from tools.record import qwen

        return _until_interrupted(lambda: qwen.main(arguments[1:]))
    width = max(map(len, EXPERIMENTS)) + 2
    parser = argparse.ArgumentParser(
        prog="python -m tools.record",
        description="Run a recorded experiment and add its rows to CSV files.",
        epilog="\n".join(f"  {name:<{width}}{what}" for name, what in EXPERIMENTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run (default: 0 1 2)")
    parser.add_argument("--output", type=Path, help="folder to add the rows in (default: build/record)")
    chosen = parser.parse_args(arguments)

    def measure() -> int:
        experiment = importlib.import_module(f"tools.record.{chosen.name.replace('-', '_')}")
        record(experiment, chosen.seeds, chosen.output or output_folder() / "record")
        return 0

    return _until_interrupted(measure)


def _until_interrupted(measure: Callable[[], int]) -> int:
    try:
        return measure()
    except (Interrupted, KeyboardInterrupt) as error:
        what = error.what if isinstance(error, Interrupted) else "\nInterrupted."
        print(f"{what} The same command continues with what was being measured.", file=sys.stderr)
    except CourseError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
