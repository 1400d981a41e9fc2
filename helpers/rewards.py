"""Reward functions for TRL: completions -> programs -> verdicts -> rewards.

`extract_code` makes the program, `helpers.verifier` grades it, and `passes_tests` turns the verdict into 1.0 or 0.0,
`fraction_of_tests` into a share. `compiles` and `is_one_code_block` look at the text alone, for use beside these.
The prompt conventions are HumanEval's (arXiv 2107.03374): a prompt ends before the body of the function it asks for.

GRPOTrainer takes several functions, and adds up what they give, each times its entry in GRPOConfig's `reward_weights`
(1.0 where there are none); a None counts as nothing. In the logs each has its own `__name__`.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence

from helpers.verifier import Outcome, Submission, Verdict, grade_programs

# A model that is asked for more tokens than its answer needs writes on behind these; what follows is no answer.
# "</s>" counts only where text or a line ends: it is an HTML tag too, and an answer may hold it in a string.
END_OF_TEXT = re.compile(
    r"<\|(?:endoftext|im_end|end_of_text|eot_id|eom_id|EOT|end|return|file_sep|repo_name|fim_pad)\|>"
    r"|<｜end▁of▁sentence｜>|(?:</s>|<eos>|<end_of_turn>)(?=\s|<|$)"
)
START_OF_TEXT = re.compile(r"^\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|im_start\|>(?:assistant\n)?)+")
FENCE = re.compile(r"^ {0,3}```+([^`]*)$")  # deeper ones stand in docstrings
CODE_START = re.compile(r"(?:from|import|def|class|async|@)")
FUTURE_IMPORT = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
PROSE = re.compile(r"(?!(?:from|import|def|class|async)\b)[^\s@#]")  # perhaps: a line at the margin, no definition


def passes_tests(
    prompts: Sequence,
    completions: Sequence,
    *,
    test: Sequence[str],
    entry_point: Sequence[str],
    code_prompt: Sequence[str | None] | None = None,
    **kwargs: object,
) -> list[float | None]:
    """Reward 1.0 where the program passes its problem's tests, 0.0 where it does not, None where grading broke down.

    A reward function for TRL's GRPOTrainer: `test`, `entry_point` and `code_prompt` are data set columns, one entry per
    completion. The program is made from `code_prompt`, the problem's own text, and the completion; where a row has
    none, a string prompt stands in for it. Raises ValueError for columns that do not fit, BrokenTestsError for tests
    that do not run, and GradingError where grading does not work on this machine.
    """
    graded = verdicts(prompts, completions, test=test, entry_point=entry_point, code_prompt=code_prompt)
    return [reward_of(verdict) for verdict in graded]


def fraction_of_tests(
    prompts: Sequence,
    completions: Sequence,
    *,
    test: Sequence[str],
    entry_point: Sequence[str],
    code_prompt: Sequence[str | None] | None = None,
    **kwargs: object,
) -> list[float | None]:
    """Reward with the share of the asserts that hold, each judged by itself; None where grading broke down.

    Columns and errors as for `passes_tests`. An assert that runs ten times counts ten times; one that the tests never
    come to counts not at all, and a program that does not load earns 0.0. One that ends itself, or runs out of time or
    memory, keeps what held until then and fails the rest; one that forges a message keeps nothing.
    """
    columns = {"test": test, "entry_point": entry_point, "code_prompt": code_prompt}
    graded = verdicts(prompts, completions, **columns, each_assert=True)
    return [None if verdict.outcome is Outcome.INFRASTRUCTURE_FAILED else verdict.share for verdict in graded]


def compiles(
    prompts: Sequence,
    completions: Sequence,
    *,
    entry_point: Sequence[str],
    code_prompt: Sequence[str | None] | None = None,
    **kwargs: object,
) -> list[float | None]:
    """Reward 1.0 where the program is Python, 0.0 where it is not; nothing is run.

    Columns and errors as for `passes_tests`. An empty body is Python too: only ever a small part of a reward.
    """
    rows = _rows(prompts, completions, entry_point=entry_point, code_prompt=code_prompt)
    return [float(_error_line(_program(*row)[0]) is None) for row in rows]


def is_one_code_block(completions: Sequence, **kwargs: object) -> list[float | None]:
    """Reward 1.0 where a completion is one fenced block, Python's or of no named language, and nothing beside it.

    A format that `helpers.problems.prompt_of` asks chat models for. It says nothing about what is in the block.
    """
    return [float(_is_one_block(_clean(_completion_text(completion)))) for completion in completions]


def verdicts(
    prompts: Sequence,
    completions: Sequence,
    *,
    test: Sequence[str],
    entry_point: Sequence[str],
    code_prompt: Sequence[str | None] | None = None,
    **limits: object,
) -> list[Verdict]:
    """Grade each completion and say how it ended and why; `passes_tests` is made from this.

    Takes the same columns, and what `helpers.verifier.grade_programs` takes beside its items.
    """
    rows = _rows(prompts, completions, entry_point=entry_point, code_prompt=code_prompt, test=test)
    submissions = []
    for prompt, completion, name, own_prompt, its_test in rows:
        program, text = _program(prompt, completion, name, own_prompt)
        submissions.append(Submission(program=program, prompt=text, test=its_test, entry_point=name))
    return grade_programs(submissions, **limits)


def reward_of(verdict: Verdict) -> float | None:
    """1.0 for passed, 0.0 for every other verdict on the program, None where there is none; TRL leaves None out."""
    if verdict.outcome is Outcome.INFRASTRUCTURE_FAILED:
        return None
    return 1.0 if verdict.passed else 0.0


def extract_code(prompt: str, completion: str, entry_point: str) -> str:
    """Make the program to run from a problem's prompt and a model's answer.

    The answer may go on with the function's body, write the whole function, or be a chat answer with fenced code: the
    last fence that defines `entry_point` counts, else the last one. The prompt is kept as a whole, with its imports
    and helpers. What follows the function is kept where all of it is Python, and cut at the first unindented line
    that is not. Where no reading gives a program, the plain text is returned, to fail with its own SyntaxError.
    """
    prompt, text = _unix_newlines(prompt), _clean(completion)
    fenced = _fenced_code(text, entry_point)
    if not fenced or _error_line(_context(prompt) + text) is None:  # fences may stand in a docstring
        return _whole_function(prompt, text, entry_point) or _continuation(prompt, text) or prompt + text
    programs = (_whole_function(prompt, code, entry_point) or _fenced_body(prompt, code) for code in fenced)
    return next(filter(None, programs), prompt + fenced[0])


def _rows(
    prompts: Sequence,
    completions: Sequence,
    *,
    entry_point: Sequence[str],
    code_prompt: Sequence[str | None] | None,
    **others: Sequence,
) -> list[tuple]:
    """(prompt, completion, entry point, code prompt or None, ...) for each completion, once all columns fit."""
    code_prompts = [None] * len(completions) if code_prompt is None else code_prompt
    columns = {"prompts": prompts, **others, "entry_point": entry_point, "code_prompt": code_prompts}
    for name, column in columns.items():
        _check_column(name, column, len(completions))
    return list(zip(prompts, completions, entry_point, code_prompts, *others.values(), strict=True))


def _check_column(name: str, column: Sequence, length: int) -> None:
    if isinstance(column, str) or len(column) != length:
        found = "one string" if isinstance(column, str) else len(column)
        raise ValueError(f"'{name}' must hold one entry for each of the {length} completions, not {found}.")


def _program(prompt: object, completion: object, entry_point: str, code_prompt: str | None) -> tuple[str, str]:
    """The program of one row, and the problem's own text that it was made with."""
    if code_prompt is None:
        if not isinstance(prompt, str):
            raise ValueError(
                "A conversational prompt does not say where the code begins: give the data set a 'code_prompt' column "
                "with each problem's own text."
            )
        code_prompt = prompt
    return extract_code(code_prompt, _completion_text(completion), entry_point), code_prompt


def _completion_text(completion: object) -> str:
    """The text of a completion: a string, or the last message of the assistant's in TRL's conversational form."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence):
        for message in reversed(completion):
            if isinstance(message, dict) and message.get("role") == "assistant":
                return _message_text(message.get("content"))
    raise ValueError(
        "A completion must be a string or a list of messages with one from the 'assistant', "
        f"not {type(completion).__name__}."
    )


def _message_text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""  # a message that only calls tools has no text


def _is_one_block(text: str) -> bool:
    lines = text.strip("\n ").split("\n")
    fences = [(number, found[1].strip()) for number, line in enumerate(lines) if (found := FENCE.match(line))]
    whole = [(0, ""), (len(lines) - 1, "")]
    return [(at, "" if info in ("python", "py") and at == 0 else info) for at, info in fences] == whole


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _clean(completion: str) -> str:
    text = START_OF_TEXT.sub("", _unix_newlines(completion))
    end = END_OF_TEXT.search(text)
    return text[: end.start()] if end else text


def _defines(text: str, entry_point: str) -> bool:
    name = re.escape(entry_point)
    return re.search(rf"^(?:(?:async\s+)?def\s+{name}\s*\(|{name}\s*=[^=])", text, re.MULTILINE) is not None


def _starts_indented(text: str) -> bool:
    lines = (line for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return next(lines, "").startswith((" ", "\t"))


def _context(prompt: str) -> str:
    """The prompt as a program of its own, "" where it is no Python."""
    for context in (prompt + "\n", prompt + "\n    pass\n"):  # a prompt may end with the signature
        if _error_line(context) is None:
            return context
    return ""


def _whole_function(prompt: str, text: str, entry_point: str) -> str | None:
    """The program where the text defines the function itself: behind the prompt, whose own stub it replaces."""
    dedented = textwrap.dedent(text)
    if _starts_indented(dedented) or not _defines(dedented, entry_point):
        return None
    if _starts_indented(text) and _error_line(dedented) is not None:
        return None  # a body whose inner function has the name of the outer one
    future = "".join(FUTURE_IMPORT.findall(dedented))  # only allowed at the very top
    prefix = future + _context(prompt)
    lines = FUTURE_IMPORT.sub("", dedented).split("\n")
    for start in _code_starts(lines, entry_point):
        kept = _longest_program(prefix, "\n".join(lines[start:]))
        if kept is not None and _defines(kept, entry_point):
            return prefix + kept
    return None


def _code_starts(lines: list[str], entry_point: str) -> list[int]:
    """Where the code may begin, behind prose: at the top, or at a line that looks like code, up to the function."""
    end = next(number for number, line in enumerate(lines) if _defines(line, entry_point))
    starts = [number for number in range(end) if CODE_START.match(lines[number])]
    return [0, *starts[:8], end]


def _continuation(prompt: str, text: str) -> str | None:
    """The program where the text goes on with the body that the prompt leaves open."""
    if not _starts_indented(text) and text.strip() and prompt.endswith("\n"):
        return None
    breaks = ("",) if prompt.endswith("\n") or text.startswith("\n") else ("", "\n")
    for line_break in breaks:
        kept = _longest_program(prompt + line_break, text)
        if kept is not None:
            return prompt + line_break + kept
    return None


def _fenced_body(prompt: str, block: str) -> str | None:
    """The program where a fence holds only the body, indented as in the prompt, otherwise, or not at all."""
    if _starts_indented(block):
        return _continuation(prompt, block)
    indent = _body_indent(prompt)
    kept = _longest_program(prompt + "\n", textwrap.indent(block, indent), indent)
    return None if kept is None else prompt + "\n" + kept


def _body_indent(prompt: str) -> str:
    indents = re.findall(r"^([ \t]+)\S", prompt, re.MULTILINE)
    return min(indents, key=len, default="    ")


def _fenced_code(text: str, entry_point: str) -> list[str]:
    """The contents of the Markdown fences, best first: the last that defines the function, or, where none does, all.

    A fence may lack its end or, where the prompt opened it, its beginning; what then stands first goes before the rest.
    """
    lines = text.split("\n")
    fences = [(number, found[1].strip()) for number, line in enumerate(lines) if (found := FENCE.match(line))]
    if not fences:
        return []
    head = "\n".join(lines[: fences[0][0]])
    opened_by_prompt = _starts_indented(head) or _defines(head, entry_point)
    start = 0 if opened_by_prompt else None
    blocks = []
    for number, info in [*fences, (len(lines), "")]:
        if start is not None:
            blocks.append(textwrap.dedent("\n".join(lines[start:number])))
        start = number + 1 if start is None or info else None  # a fence that names a language opens one in any case
    defining = [block for block in blocks if _defines(block, entry_point)]
    if defining:
        return defining[-1:]
    return [*(blocks[:1] if opened_by_prompt else []), *reversed(blocks)]


def _longest_program(prefix: str, text: str, indent: str = "") -> str | None:
    """The longest beginning of `text` that is Python behind `prefix`, cut only where a line starts at `indent`.

    None where nothing is left. Lines of prose that happen to be Python ("Done", "Note: sorted") are blanked out.
    """
    lines = text.split("\n")
    offset = prefix.count("\n")
    filled = [number for number, line in enumerate(lines) if line.strip()]
    cuts = [
        number for number in filled[1:] if lines[number].startswith(indent) and lines[number][len(indent)] not in " \t"
    ]
    while (error_line := _error_line(prefix + "\n".join(lines))) is not None:
        cuts = [number for number in cuts if number <= error_line - 1 - offset and number < len(lines)]
        if not cuts:
            return None
        lines = lines[: cuts.pop()]
    return "\n".join(_without_prose(lines, offset, prefix))


def _without_prose(lines: list[str], offset: int, prefix: str) -> list[str]:
    """Blank out top-level statements that do nothing but look up names: as code they can only fail."""
    if not any(PROSE.match(line) for line in lines):
        return lines
    try:
        with _no_warnings():
            statements = ast.parse(prefix + "\n".join(lines)).body
    except (RecursionError, MemoryError):  # deep nesting that compiles, but has no tree
        return lines
    kept = list(lines)
    for statement in statements:
        if statement.lineno > offset and _only_looks_up(statement):
            span = slice(statement.lineno - 1 - offset, statement.end_lineno - offset)
            kept[span] = [""] * len(kept[span])
    return kept


def _only_looks_up(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    calls = (isinstance(node, ast.Call | ast.Await | ast.NamedExpr) for node in ast.walk(statement))
    return isinstance(statement, ast.Expr) and not any(calls)


def _error_line(program: str) -> int | None:
    """The line, from 1, where the program stops being Python; None where all of it compiles."""
    try:
        with _no_warnings():
            compile(program, "<program>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError, OverflowError):  # NUL, lone surrogates, absurd nesting
        return 1
    return None


def _no_warnings() -> warnings.catch_warnings:
    """Silence what Python says about, for example, an unknown escape in a string: it is the model's affair."""
    return warnings.catch_warnings(action="ignore")
