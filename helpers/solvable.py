"""Choose the problems worth training on: those that the untrained model solves sometimes, but not always.

A group in which all completions pass, or none does, gives no signal. With Qwen2.5-Coder-0.5B-Instruct and the bundled
problems that is more than half of them. Sampling them once beforehand costs minutes; sampling them in vain at every
step costs more.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.problems import Problem
from helpers.runtime import CourseError


def keep_solvable(
    problems: Sequence[Problem],
    num_samples: int,
    count: Callable[[Sequence[Problem]], Sequence[int]],
    path: Path,
    given: Mapping[str, Any],
) -> list[Problem]:
    """Return the problems that were solved by at least one of `num_samples` completions, but not by all.

    `count` returns for each problem how many of its completions pass. It is called once: the counts are stored in
    `path`, with `given` (whatever they depend on: model, prompt mode, temperature, length, seed), and read from there
    if `given`, `num_samples` and the problems are the same. Raises CourseError if no problem is left.
    """
    given = json.loads(json.dumps({**given, "samples": num_samples}))
    solved = _stored(path, given)
    if any(problem.task_id not in solved for problem in problems):
        counts = count(problems)
        solved = {problem.task_id: int(number) for problem, number in zip(problems, counts, strict=True)}
        path.write_text(json.dumps({"given": given, "solved": solved}, indent=1) + "\n", encoding="utf-8")
    kept = [problem for problem in problems if 0 < solved[problem.task_id] < num_samples]
    never = sum(solved[problem.task_id] == 0 for problem in problems)
    print(
        f"Of {len(problems)} training problems the untrained model solved {never} in none of {num_samples} attempts, "
        f"and {len(problems) - never - len(kept)} in all; the {len(kept)} others are kept.",
        flush=True,
    )
    if not kept:
        raise CourseError(
            f"The untrained model solves each training problem in all of {num_samples} attempts or in none, so no "
            "problem is left to train on: sample more attempts (--keep-solvable), or choose other problems."
        )
    return kept


def _stored(path: Path, given: Mapping[str, Any]) -> dict[str, int]:
    """Return the counts in `path`, or none if the file is missing or belongs to other settings."""
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return record["solved"] if record["given"] == given else {}
