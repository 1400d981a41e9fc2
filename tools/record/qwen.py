"""Notebook 04: the profile qwen-cpu, trained on a CPU, evaluated near its training problems and far from them.

    python -m tools.record qwen --model FOLDER --seed 0 [--reward random_reward]

An interrupted run continues with the same command. The evaluation before training and the counts of solved problems are
measured once, and serve every run.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import run_folder, train
from helpers.run_folder import AFTER, BEFORE, RESULT, SOLVED
from helpers.runtime import output_folder
from tools.record.table import replace, surroundings

NAME = "Qwen/Qwen2.5-Coder-0.5B-Instruct"  # stands for the folder of the model in the recorded files
EXAMPLES = 5  # of each held-out set, besides those whose greedy verdict changed


def main(arguments: Sequence[str]) -> int:
    """Train and evaluate once, or continue, and write the record. Returns the exit status."""
    chosen = _parse(arguments)
    from helpers.profiles import settings_here

    given = {name: getattr(chosen, name) for name in ("max_steps", "eval_limit", "lora_base") if getattr(chosen, name)}
    settings = settings_here("qwen-cpu", model=chosen.model, seed=chosen.seed, **given)
    folder, measured = chosen.runs / f"{chosen.reward}_seed{chosen.seed}", chosen.runs / "measured"
    _collect([chosen.output, folder], measured, chosen.model)
    _keep(measured, chosen.output, chosen.model)
    if not (folder / RESULT).exists():
        resume = run_folder.last_checkpoint(folder) is not None
        if not resume:
            run_folder.prepare_output(folder, overwrite=True)
        reward = train.find_reward(chosen.reward)
        start = measured if any(measured.iterdir()) else None
        train.run(settings, reward, folder, resume=resume, measured=start)
    write_record(folder, chosen.output, chosen.model, chosen.weights)
    print(run_folder.before_after_table(json.loads((folder / RESULT).read_text(encoding="utf-8"))))
    return 0


def write_record(folder: Path, output: Path, model: str, weights: str) -> None:
    """Write what a finished run in `folder` measured to `output`, as small text files without weights.

    `before.json` and `solved.json` serve all runs and are written once. The other files begin with the run's name:
    `.json` holds settings, versions, machine and scores; `_steps.csv` the log of each step; `_problems.csv` each
    problem's verdicts before and after; `_examples.jsonl` completions before and after.
    """
    _keep(folder, output, model)
    result = json.loads(_renamed(folder / RESULT, model, NAME))
    steps = pd.DataFrame(result.pop("history"))
    before, after = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (BEFORE, AFTER))
    rows = pd.DataFrame(_problem_rows(before["evaluations"], after))
    record = {"weights": weights, **result, "machine": surroundings()["machine"]}
    name = folder.name
    replace(output / f"{name}.json", json.dumps(record, indent=1) + "\n")
    replace(output / f"{name}_steps.csv", steps.round(6).to_csv(index=False, lineterminator="\n"))
    table = rows.drop(columns=["completion_before", "completion_after"])
    replace(output / f"{name}_problems.csv", table.to_csv(index=False, lineterminator="\n"))
    changed = rows.index[rows["greedy_before"] != rows["greedy_after"]]
    some = rows.groupby("set").head(EXAMPLES).index
    examples = rows.loc[changed.union(some)].to_json(orient="records", lines=True, force_ascii=False)
    replace(output / f"{name}_examples.jsonl", examples)


def _problem_rows(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, old in before.items():
        new = after[name]
        for i, task_id in enumerate(old["task_ids"]):
            pair = {"before": old, "after": new}
            row: dict[str, Any] = {"set": name, "task_id": task_id, "samples": len(old["passed"][i])}
            row |= {f"greedy_{when}": int(at["greedy"][i]) for when, at in pair.items()}
            row |= {f"correct_{when}": sum(at["passed"][i]) for when, at in pair.items()}
            row |= {f"completion_{when}": at["greedy_completions"][i] for when, at in pair.items()}
            rows.append(row)
    return rows


def _collect(sources: Sequence[Path], measured: Path, model: str) -> None:
    """Copy what was measured before training to `measured`, from the record or from a run that was cut short."""
    measured.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for name in (BEFORE, SOLVED):
            if (source / name).is_file() and not (measured / name).exists():
                (measured / name).write_text(_renamed(source / name, NAME, model), encoding="utf-8")


def _keep(folder: Path, output: Path, model: str) -> None:
    """Add what was measured before training to the record."""
    output.mkdir(parents=True, exist_ok=True)
    for name in (BEFORE, SOLVED):
        if (folder / name).exists() and not (output / name).exists():
            replace(output / name, _renamed(folder / name, model, NAME))


def _renamed(path: Path, old: str, new: str) -> str:
    """Return the text of a JSON file, with the model's name replaced."""
    return path.read_text(encoding="utf-8").replace(f'"model": {json.dumps(old)}', f'"model": {json.dumps(new)}')


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.record qwen", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="the folder of the model")
    parser.add_argument("--weights", default="", help="where the model's weights come from, in words, for the record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reward", default="passes_tests")
    parser.add_argument("--max-steps", type=int, help="fewer steps, for a trial")
    parser.add_argument("--eval-limit", type=int, help="fewer problems, for a trial")
    parser.add_argument("--lora-base", help="bf16 or fp32, if not the profile's")
    parser.add_argument("--runs", type=Path, default=output_folder() / "qwen", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=output_folder() / "record" / "qwen", help="folder of the record")
    return parser.parse_args(arguments)
