"""Add the results of an experiment to its CSV files, seed by seed, and never replace a row that is there."""

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from helpers.runtime import CourseError

PACKAGES = ("torch", "transformers", "trl")


class Experiment(Protocol):
    """What a module of tools/record/ provides."""

    FILES: tuple[str, ...]
    SETTINGS: dict[str, Any]

    def measure(self, seed: int) -> dict[str, pd.DataFrame]:
        """Return the rows of one seed for each of FILES."""


def record(experiment: Experiment, seeds: Sequence[int], folder: Path) -> None:
    """Measure each seed that one of the experiment's files lacks, and add its rows as soon as they are known.

    How a seed was measured (settings, versions, machine) is added to a JSON file next to the first CSV file. Raises
    CourseError if a file has other columns than the new rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [folder / name for name in experiment.FILES]
    for seed in seeds:
        lacking = [table for table in tables if seed not in seeds_in(table)]
        if not lacking:
            print(f"Seed {seed} is in {_in_words(tables)} already. To measure it again, choose another folder.")
            continue
        start = time.perf_counter()
        rows = experiment.measure(seed)
        for table in lacking:
            add_rows(table, rows[table.name])
        how = {"seed": seed, "settings": experiment.SETTINGS, **surroundings()}
        add_entry(tables[0].with_suffix(".json"), how | {"seconds": round(time.perf_counter() - start)})
        print(f"Seed {seed}: added to {_in_words(lacking)}.", flush=True)


def seeds_in(table: Path) -> set[int]:
    """Return the seeds that a CSV file has rows of."""
    return set(pd.read_csv(table)["seed"]) if table.exists() else set()


def add_rows(table: Path, rows: pd.DataFrame) -> None:
    """Add rows below those that a CSV file has, rounded to four decimals. Raises CourseError for other columns."""
    there = table.read_text(encoding="utf-8") if table.exists() else ""
    if there and (columns := there.splitlines()[0].split(",")) != list(rows.columns):
        raise CourseError(f"{table} has the columns {columns}, but the new rows have {list(rows.columns)}.")
    replace(table, there + rows.round(4).to_csv(index=False, header=not there, lineterminator="\n"))


def add_entry(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry to a JSON file that holds a list."""
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    replace(path, json.dumps([*there, entry], indent=1, default=str) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file in one step: if this is interrupted, the file is as it was before."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def surroundings() -> dict[str, Any]:
    """Return the versions and the machine that a measurement depends on."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"versions": versions, "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"}


def _in_words(tables: Iterable[Path]) -> str:
    return " and ".join(map(str, tables))
