"""Make the program to run from a problem's prompt and a model's answer.

The prompt conventions are HumanEval's (arXiv 2107.03374): a prompt ends before the body of the function it asks for.
All of this happens in the process that trains, on text that nobody has checked. So the text is only parsed, never
compiled (CPython's compiler doubles each nested `finally`), and only so many characters of it: MAX_READ in all.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

from helpers.problems import function_pattern

EndRule = Callable[[str], bool]  # whether a completion with this text is complete

# At most so many characters of one passage are parsed, about 3,000 tokens, and so many of one answer, which takes a
# tenth of a second. Longer code is taken as it is.
MAX_CODE = 12_000
MAX_READ = 2 * MAX_CODE
# Only the last passages of an answer are considered.
MAX_PASSAGES = 30

# A model that may write more tokens than its answer needs goes on after one of these, and what follows is not the
# answer. "</s>" counts only if text or a line ends there: it is an HTML tag too, and an answer may have it in a string.
END_OF_TEXT = re.compile(
    r"<\|(?:endoftext|im_end|end_of_text|eot_id|eom_id|EOT|end|return|file_sep|repo_name|fim_pad)\|>"
    r"|<｜end▁of▁sentence｜>|(?:</s>|<eos>|<end_of_turn>)(?=\s|<|$)"
)
START_OF_TEXT = re.compile(r"^\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|im_start\|>(?:assistant\n)?)+")
FINAL_CHANNEL = "<|channel|>final<|message|>"
THOUGHT = re.compile(
    r"<(/?)(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[(/?)THINK\]|◁(/?)think▷", re.IGNORECASE
)
TAG = "(?:answer|final_answer|solution|code|python|pre)"
ANSWER = re.compile(
    rf"^[ \t]*(?:(?:<pre>)?<{TAG}(?: [^<>\n]*)?>|\[(?:PYTHON|ANSWER)\])"
    rf"|(?:</{TAG}>(?:</pre>)?|\[/(?:PYTHON|ANSWER)\])[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
FENCE = re.compile(r"`{3,}|~{3,}")
BULLETS = re.compile(r"\s*(?:(?:[-*+]|\d{1,3}[.)]|>)\s*)*")
DOCSTRING = re.compile("\"\"\"|'''")
QUOTATION = ("'", '"', "`")
LANGUAGE = re.compile(r"[\W_]*([\w+#]*)[\W_]*")
CODE_START = re.compile(r"(?:from|import|def|class|async|@)")
FUTURE_IMPORT = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
# The parser accepts these anywhere, but the compiler does not.
STRAY = re.compile(r"\b(?:return|yield|await|async|break|continue|__future__)\b")
INDENTED = re.compile(r"(?:^(?: {4}|\t).*\n?|^[ \t]*\n)+", re.MULTILINE)


def extract_code(prompt: str, completion: str, entry_point: str) -> str:
    """Make the program to run from a problem's prompt and a model's answer. Never raises, whatever the text.

    The prompt is kept whole, with its imports and helpers. These rules apply, in this order:

    - Line ends become "\\n". Start tokens go, and so does all that follows an end-of-text token.
    - Thoughts (`<think>` and its kin) never count: closed ones, one that has no end, and one that has no beginning
      because the prompt opened it. Tags inside quotes are text.
    - Text that is Python as a whole is code, even if there are fences in its docstrings.
    - If there are Markdown fences (backticks or tildes; in lists and quotations; not closed, or opened by the prompt),
      or tags like `<answer>` in their place, one passage is the answer: the last that defines `entry_point` by `def`
      or `class`, else the last that assigns it. Fences that name another language come after Python's and unnamed
      ones, and text outside of fences after them.
    - Imports, functions, classes and constants of earlier fences are put before that passage if it uses them.
    - If no passage defines the function, one is its body: the last that returns something, else the last. It may be
      indented as in the prompt, in another way, or not at all.
    - Without fences, the text is the whole function, perhaps between prose, or it continues the body.
    - What follows the function is kept as long as it is Python, and cut at the first unindented line that is not.
      Lines of prose that happen to be Python ("Done", "Note: sorted") are blanked out.
    - If no reading gives a program, prompt and text are joined as they are, and fail with their own SyntaxError.

    >>> prompt = 'def double(x):\\n    \"\"\"Return 2 * x.\"\"\"\\n'
    >>> print(extract_code(prompt, "Sure!\\n```python\\ndef double(x):\\n    return 2 * x\\n```\\nDone.", "double"))
    def double(x):
        \"\"\"Return 2 * x.\"\"\"
    <BLANKLINE>
    def double(x):
        return 2 * x
    """
    return _Reader(_unix_newlines(prompt), entry_point).program(_clean(completion))


def is_python(program: str) -> bool:
    """Return whether the program parses as Python. It is neither compiled nor run.

    >>> is_python("def f(x):\\n    return x\\n"), is_python("return 1\\n")
    (True, False)
    """
    return _parse(program)[0] is None


# --- from a completion to the text of the answer ---


def function_ended(text: str) -> bool:
    """Return whether a function whose body begins `text` is complete: a line without indentation follows the body.

    Lines inside a triple-quoted string, and lines that begin with a closing bracket, still belong to the body. Use this
    for completions that continue a function. An answer in a chat ends by itself.

    >>> function_ended("    return a + b\\n"), function_ended("    return a + b\\n\\nprint")
    (False, True)
    """
    in_body = in_string = False
    for line in text.split("\n"):
        if in_body and not in_string and line[:1].strip() and line[0] not in ")]}":
            return True
        in_body = in_body or bool(line.strip() and line[0] in " \t")
        in_string ^= (line.count('"""') + line.count("'''")) % 2 == 1
    return False


def _clean(completion: str) -> str:
    text = _unix_newlines(completion).rpartition(FINAL_CHANNEL)[2]
    text = START_OF_TEXT.sub("", re.sub("^\ufeff", "", text, flags=re.MULTILINE))
    end = END_OF_TEXT.search(text)
    return _without_thoughts(text[: end.start()] if end else text)


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_thoughts(text: str) -> str:
    kept: list[str] = []
    start, thinking = 0, False
    for tag in THOUGHT.finditer(text):
        quoted = text[tag.start() - 1 : tag.start()] in QUOTATION or text[tag.end() : tag.end() + 1] in QUOTATION
        closes = any(tag.groups())
        if closes and (thinking or not quoted):
            # If no tag opened this thought, the prompt did, and all of the text up to here belongs to it.
            kept = kept if thinking else []
            start, thinking = tag.end(), False
        elif not closes and not thinking and not quoted:
            kept.append(text[start : tag.start()])
            thinking = True
    return "".join(kept if thinking else [*kept, text[start:]])


# --- from the text to its passages ---


class _Passage:
    """A part of an answer: inside a fence, or between two."""

    def __init__(self, name: str, mark: str = "", lead: str = "", info: str = "") -> None:
        self.mark = mark  # the fence's backticks or tildes, "" outside of fences
        self.fenced = bool(mark)
        self.python = LANGUAGE.findall(info)[0].lower()[:2] in ("", "py", "ip")  # or no language
        self.is_code = self.fenced
        self._in_quotation = ">" in lead
        self._defines = _definition(name)
        self._lines: list[str] = []
        # So far there are only blank lines and comments.
        self._blank = True
        self._quote = ""  # of the string literal that is open

    def add(self, line: str) -> None:
        """Add a line, and keep track of docstrings."""
        if line.strip() or self._lines:
            self._lines.append(line)
        if line.strip() and not line.startswith("#"):
            # Code starts indented, or defines the function somewhere.
            self.is_code = self.is_code or (self._blank and line[0] in " \t") or bool(self._defines.match(line))
            self._blank = False
        for quote in DOCSTRING.findall(line):
            self._quote = "" if self._quote == quote else self._quote or quote

    def in_docstring(self, number: int, last: dict[str, int]) -> bool:
        """Return whether line `number` is inside a string literal of code. `last` says where its end could be."""
        return self.is_code and bool(self._quote) and last[self._quote] > number

    @property
    def code(self) -> str:
        """The lines without what the fence around them adds."""
        lines = [re.sub(r"^\s*> ?", "", line) for line in self._lines] if self._in_quotation else self._lines
        if len(self.mark) > 3:
            # Four backticks are for text that has fences itself.
            lines = ["" if line.lstrip().startswith("```") else line for line in lines]
        return textwrap.dedent("\n".join(lines))


def _passages(text: str, name: str) -> list[_Passage]:
    """Split text at its fences. A fence may lack its end or, if the prompt opened it, its beginning."""
    lines = text.split("\n")
    last_quotes = {quote: number for number, line in enumerate(lines) for quote in DOCSTRING.findall(line)}
    passages = [_Passage(name)]
    for number, line in enumerate(lines):
        here, fence = passages[-1], FENCE.search(line)
        if fence is None or here.in_docstring(number, last_quotes):
            here.add(line)
            continue
        mark, lead, info = fence[0], line[: fence.start()], line[fence.end() :].strip()
        # A mark may follow the signs of a list or a quotation, and is still alone in its line.
        alone = not BULLETS.sub("", lead, count=1)
        if here.mark:
            # Inside a fence, a mark that names a language opens the next one. One without ends it, and so does one
            # after code in its line, unless the next line has a mark of its own.
            same = mark[0] == here.mark[0]
            opens = same and alone and bool(info) and "`" not in info
            after_code = not lead.lstrip().startswith("#") and not FENCE.match("".join(lines[number + 1 : number + 2]))
            ends = opens or (same and not info and len(mark) >= len(here.mark) and (alone or after_code))
        else:
            inline = mark[0] == "`" and "`" in info
            opens = ends = not inline and (alone or (mark[0] == "`" and (bool(info) or not here.is_code)))
            if opens and len(passages) == 1 and here.is_code:
                # Code comes before the first mark, so the prompt may have opened its fence. Then this mark ends it,
                # unless it names a language.
                here.fenced, opens = True, bool(info)
        if not ends:
            here.add(line)
            continue
        if not alone:
            here.add(lead)
        passages.append(_Passage(name, mark, lead, info) if opens else _Passage(name))
        if opens and (found := _definition(name).search(info.replace(" def ", "\ndef "))):
            # The code begins in the line of the mark.
            passages[-1].add(found.string[found.start() :])
    return passages


# --- from a passage to the program ---


class _Reader:
    """Reads an answer to one prompt. It parses up to MAX_READ characters, so that no text can take long."""

    def __init__(self, prompt: str, name: str) -> None:
        self.prompt, self.name = prompt, name
        self.context = _context(prompt)
        self._left = MAX_READ
        self._parsed: dict[tuple[str, str], tuple[int | None, ast.Module | None]] = {}

    def program(self, text: str) -> str:
        """Make the program of an answer."""
        if not self._is_python(text) and not FENCE.search(text):
            # Tags that enclose an answer serve as fences, unless there are real ones.
            text = ANSWER.sub("\n```\n", text)
        if self._is_python(text) or not FENCE.search(text):
            return self._unfenced(text) or self.prompt + text
        parts = [part for part in _passages(text, self.name) if part.code.strip()][-MAX_PASSAGES:]
        return self._defining(parts) or self._body(parts) or self.prompt + text

    def _unfenced(self, text: str) -> str | None:
        if program := self._whole_function(text) or self._continuation(text):
            return program
        # Prose in Markdown may indent its code instead of fencing it.
        indented = [] if self._is_python(text) else [textwrap.dedent(part) for part in INDENTED.findall(text)]
        return next((self._whole_function(part) for part in indented if _definition(self.name).search(part)), None)

    def _defining(self, parts: Sequence[_Passage]) -> str | None:
        """Make the program from the part that defines the function, if there is one."""
        ranks = (
            [part for part in parts if part.fenced and part.python],
            [part for part in parts if part.fenced and not part.python],
            [part for part in parts if not part.fenced],
        )
        for pattern in (_definition(self.name), _assignment(self.name)):
            for rank, candidates in enumerate(ranks):
                found = [part for part in candidates if pattern.search(part.code)]
                if not found:
                    continue
                code = self._with_helpers(candidates[: candidates.index(found[-1])], found[-1].code)
                program = self._whole_function(code) or self._fenced_body(code)
                # The last definition in Python is the answer, even if it is broken.
                if program or (rank == 0 and pattern is _definition(self.name)):
                    return program or self.context + code
        return None

    def _body(self, parts: Sequence[_Passage]) -> str | None:
        """Make the program from the part that is the function's body."""
        fenced = [part for part in parts if part.fenced]
        # First a body in a fence that the prompt opened, which has no mark, then the others from the last one on.
        ordered = sorted(reversed(fenced), key=lambda part: (bool(part.mark), not part.python))
        other = None
        for part in ordered:
            if program := self._fenced_body(part.code):
                if self._returns(part.code):
                    return program
                other = other or program
        return other

    def _whole_function(self, text: str) -> str | None:
        """Make the program if the text defines the function itself. It follows the prompt and replaces its stub."""
        dedented = textwrap.dedent(text)
        if _starts_indented(dedented) or not self._binds(dedented):
            return None
        if _starts_indented(text) and self._parse("", dedented)[0] is not None:
            return None  # a body whose inner function has the name of the outer one
        # A future import is only allowed at the very top.
        future = "".join(FUTURE_IMPORT.findall(dedented))
        lines = FUTURE_IMPORT.sub("", dedented).split("\n")
        for start in self._code_starts(lines):
            kept = self._longest("", "\n".join(lines[start:]))
            if kept is not None and self._binds(kept):
                return future + self.context + kept
        return None

    def _code_starts(self, lines: list[str]) -> list[int]:
        """Return where the code may begin: at the top, or at a line that looks like code, up to the function."""
        patterns = (_definition(self.name), _assignment(self.name))
        end = next((n for pattern in patterns for n, line in enumerate(lines) if pattern.match(line)), 0)
        starts = [number for number in range(end) if CODE_START.match(lines[number])]
        return [0, *starts[:8], end]

    def _continuation(self, text: str) -> str | None:
        """Make the program if the text continues the body that the prompt leaves open."""
        if not _starts_indented(text) and text.strip() and self.prompt.endswith("\n"):
            return None
        breaks = ("",) if self.prompt.endswith("\n") or text.startswith("\n") else ("", "\n")
        for line_break in breaks:
            kept = self._longest(self.prompt + line_break, text)
            if kept is not None:
                return self.prompt + line_break + kept
        return None

    def _fenced_body(self, code: str) -> str | None:
        """Make the program if a fence has only the body, indented as in the prompt, in another way, or not at all."""
        if _starts_indented(code):
            return self._continuation(code)
        indents = re.findall(r"^([ \t]+)\S", self.prompt, re.MULTILINE)
        indent = min(indents, key=len, default="    ")
        kept = self._longest(self.prompt + "\n", textwrap.indent(code, indent), indent)
        return None if kept is None else self.prompt + "\n" + kept

    def _with_helpers(self, earlier: Sequence[_Passage], code: str) -> str:
        """Put before the code what earlier parts define and it uses."""
        tree = self._parse("", code)[1]
        if tree is None:
            return code
        here = [*tree.body, *(_parse(self.context)[1] or tree).body]
        wanted = _used(tree) - {self.name}.union(*map(_bound, here))
        helpers: list[str] = []
        for part in reversed(earlier):
            lines, tree = part.code.split("\n"), self._parse("", part.code)[1]
            for statement in reversed(tree.body if tree and wanted else []):
                if _bound(statement) & wanted:
                    first = min(node.lineno for node in [statement, *getattr(statement, "decorator_list", [])])
                    helpers.insert(0, "\n".join(lines[first - 1 : statement.end_lineno]) + "\n")
                    wanted = (wanted - _bound(statement)) | _used(statement) - {self.name}
        return "".join(helpers) + code

    def _binds(self, code: str) -> bool:
        return bool(_definition(self.name).search(code) or _assignment(self.name).search(code))

    def _returns(self, code: str) -> bool:
        """Return whether the code is the inside of a function that returns something."""
        tree = self._parse("", code)[1]
        return bool(STRAY.search(code)) if tree is None else _stray_line(tree) is not None

    def _is_python(self, text: str) -> bool:
        return self._parse(self.context if _starts_indented(text) else "", text)[0] is None

    def _longest(self, prefix: str, text: str, indent: str = "") -> str | None:
        """Return the longest beginning of `text` that is Python after `prefix`, cut where a line starts at `indent`.

        None if nothing is left. Lines of prose that happen to be Python ("Done", "Note: sorted") are blanked out.
        """
        lines = text[:MAX_CODE].split("\n")
        offset = prefix.count("\n")
        filled = [number for number, line in enumerate(lines) if line.strip()]
        cuts = [n for n in filled[1:] if lines[n].startswith(indent) and lines[n][len(indent)] not in " \t"]
        end, tries = len(lines), 0
        while True:
            error_line, tree = self._parse(prefix, "\n".join(lines[:end]))
            if error_line is None:
                return "\n".join(_without_prose(lines[:end], tree, offset))
            cuts = [number for number in cuts if number < min(end, error_line - offset)]
            if not cuts:
                return None
            # The cut just before the error nearly always does. Steps grow, so that few tries reach the first cut.
            tries += 1
            end = cuts[max(0, len(cuts) - 2 ** max(0, tries - 4))]

    def _parse(self, prefix: str, text: str) -> tuple[int | None, ast.Module | None]:
        """Parse prefix + text as `_parse` does. Beyond MAX_CODE and MAX_READ nothing counts as Python."""
        if len(text) > MAX_CODE or self._left < 0:
            return 1, None
        if (prefix, text) not in self._parsed:
            found = self._parsed[prefix, text] = _parse(prefix + text)
            reached = len(text)
            if found[0] is not None:
                reached = sum(map(len, text.split("\n")[: max(0, found[0] - prefix.count("\n"))]))
            # An error stops the parser, but its tokenizer still goes through the rest.
            self._left -= 50 + reached + (len(prefix) + len(text)) // 8
        return self._parsed[prefix, text]


@lru_cache(256)
def _context(prompt: str) -> str:
    """Return the prompt as a program of its own, or "" if it is not Python."""
    # A prompt may end with the signature, which needs a body.
    return next((text for text in (prompt + "\n", prompt + "\n    pass\n") if is_python(text)), "")


@lru_cache(256)
def _definition(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{function_pattern(name)}|class[ \t]+{re.escape(name)}[ \t]*[(:\[])", re.MULTILINE)


@lru_cache(256)
def _assignment(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:\w+[ \t]*=[ \t]*)*{re.escape(name)}[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE)


def _starts_indented(text: str) -> bool:
    lines = (line for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return next(lines, "").startswith((" ", "\t"))


def _without_prose(lines: list[str], tree: ast.Module | None, offset: int) -> list[str]:
    """Blank out top-level statements that do nothing but look up names: as code they can only fail."""
    kept = list(lines)
    for statement in tree.body if tree else []:
        if statement.lineno > offset and _only_looks_up(statement):
            span = slice(statement.lineno - 1 - offset, (statement.end_lineno or 0) - offset)
            kept[span] = [""] * len(kept[span])
    return kept


def _only_looks_up(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    calls = (isinstance(node, ast.Call | ast.Await | ast.NamedExpr) for node in ast.walk(statement))
    return isinstance(statement, ast.Expr) and not any(calls)


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a helper binds: an import, a function, a class, or a constant."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Import() | ast.ImportFrom():
            return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
        case ast.Assign() if not any(isinstance(node, ast.Call | ast.Name) for node in ast.walk(statement.value)):
            return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return set()


def _parse(program: str) -> tuple[int | None, ast.Module | None]:
    """Return the line where the program stops being Python, or None if all of it is, and its tree if there is one.

    Lines count from 1. A program with a stray `return` has a tree and a line.
    """
    try:
        # What Python warns about, such as an unknown escape in a string, is the model's affair.
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(program)
    except SyntaxError as error:
        return error.lineno or 1, None
    except RecursionError:
        # The parser is through with it, and only the tree would be too deep.
        return None, None
    except (ValueError, MemoryError, OverflowError, SystemError):
        # NUL, half a character, absurd nesting.
        return 1, None
    return (_stray_line(tree) if STRAY.search(program) else None), tree


def _stray_line(tree: ast.Module) -> int | None:
    """Return the first line with a `return` outside of functions, or the like. The parser lets it pass."""
    at_top = True
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            if not at_top:
                return statement.lineno
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            at_top = False
        if line := _stray_in(statement):
            return line
    return None


def _stray_in(statement: ast.stmt) -> int | None:
    todo: list[tuple[ast.AST, bool]] = [(statement, False)]
    while todo:
        node, in_loop = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom | ast.Await | ast.AsyncFor | ast.AsyncWith):
            return node.lineno
        if isinstance(node, ast.Break | ast.Continue) and not in_loop:
            return node.lineno
        loop = in_loop or isinstance(node, ast.For | ast.While)
        todo += [(child, loop) for child in reversed(list(ast.iter_child_nodes(node)))]
    return None
