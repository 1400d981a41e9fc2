"""Answers: every form of a right answer becomes a program that passes, nothing else does, and no text does harm."""

import re
import sys
import textwrap
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.answers import MAX_CODE, extract_code, is_python
from helpers.problems import Problem, columns, load_problems
from helpers.rewards import passes_tests, verdicts
from helpers.verifier import Outcome, close_pool

HUMANEVAL = load_problems("humaneval")
PROMPT = 'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef f(x):\n    """Return x + 2."""\n'
BODY = "    return helper(x) + 1\n"
WHOLE = "def f(x):\n    return helper(x) + 1\n"
TEST = "def check(candidate):\n    assert candidate(math.floor(1.5)) == 3\n    assert helper(1) == 2\n"
TRAIL = (
    "\nThis works because helper adds 1, and (of course) isn't slow.\n\nDone\n\nNote: sorted_list\n"
    "if __name__ == '__main__':\n    print(undefined_name)\n\n\ndef next_function(x:\n    return\n"
)


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


def whole(problem: Problem) -> str:
    """The function alone, without the prompt's imports and helpers."""
    start = [found.start() for found in re.finditer(rf"^def {problem.entry_point}\(", problem.prompt, re.MULTILINE)][-1]
    return problem.prompt[start:] + problem.canonical_solution


def chat(code: str, info: str = "python") -> str:
    return f"Sure! Here is how:\n\n```{info}\n{code}\n```\n\nIt takes linear time.\n\n```\n>>> f(1)\n2\n```\n"


FORMS: dict[str, Callable[[Problem], str]] = {
    "body": lambda p: p.canonical_solution,
    "body and what follows": lambda p: p.canonical_solution + TRAIL,
    "body and end of text": lambda p: p.canonical_solution + "<|endoftext|>def x(:\n<|im_end|>",
    "body and its own helper": lambda p: p.canonical_solution + "\n\ndef other():\n    return 1\n",
    "body in a fence that the prompt opened": lambda p: (
        p.canonical_solution + "\n```\nThat's all.\n```python\nf(1)\n```"
    ),
    "whole function": whole,
    "whole function and what follows": lambda p: whole(p) + TRAIL,
    "prose, whole function, prose": lambda p: f"Here's the function:\n\n{whole(p)}\n\nIt is from the book.",
    "prompt and body": lambda p: p.prompt + p.canonical_solution,
    "chat": lambda p: chat(whole(p)),
    "chat, Windows line ends": lambda p: chat(whole(p)).replace("\n", "\r\n"),
    "chat, fence never closed": lambda p: f"Sure:\n```python\n{whole(p)}",
    "chat, first a wrong draft": lambda p: chat(f"def {p.entry_point}(*a):\n    return 0") + chat(whole(p)),
    "chat, indented body": lambda p: f"The body is:\n\n```\n{p.canonical_solution}\n```\nIt works.\n",
    "chat, body without indentation": lambda p: f"Sure!\n```py\n{textwrap.dedent(p.canonical_solution)}\n```\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_humaneval_solution_is_paid_in_every_form(form: str):
    completions = [FORMS[form](problem) for problem in HUMANEVAL]
    graded = verdicts([problem.prompt for problem in HUMANEVAL], completions, **columns(HUMANEVAL))
    unpaid = [(p.task_id, verdict.message) for p, verdict in zip(HUMANEVAL, graded, strict=True) if not verdict.passed]
    assert unpaid == []


# Each must give a program that passes TEST, which needs the prompt's import and its helper.
PAID = {
    "signature repeated": PROMPT[PROMPT.index("def f") :] + BODY,
    "signature with types": "def f(x: int) -> int:\n    return helper(x) + 1",
    "indented signature": textwrap.indent(WHOLE, "    "),
    "a space before it": " " + WHOLE,
    "assigned": "f = lambda x: helper(x) + 1\n",
    "decorated": "import functools\n\n@functools.cache\n" + WHOLE,
    "helper after it": "def f(x):\n    return g(x)\n\n\ndef g(x):\n    return helper(x) + 1\n",
    "body with helper after it": "    return g(x)\n\n\ndef g(x):\n    return helper(x) + 1\n",
    "body with constant after it": "    return helper(x) + ONE\n\nONE = 1\n",
    "comment first": "# add twice\n" + BODY,
    "blank lines first": "\n\n" + BODY,
    "inner function of the same name": "    def f(y):\n        return helper(y)\n    return f(x) + 1\n",
    "future import": "from __future__ import annotations\n" + WHOLE,
    "future import in a fence": chat("from __future__ import annotations\n\n" + WHOLE),
    "class after it, unfinished": WHOLE + "\n\nclass Solution:\n    def f(self",
    "decorator left over": BODY + "\n\n@cache\ndef g(",
    "string never closed after it": BODY + '\n"""\nExplanation: this',
    "fence in its docstring": 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x + 2\n',
    "fence in its docstring, in a fence": chat(
        'def f(x):\n    """\n    ```python\n    f(1)\n    ```\n    """\n    return x + 2'
    ),
    "fence at the margin of a docstring": 'def f(x):\n    """\n```\nf(1)\n```\n    """\n    return helper(x) + 1\n',
    "fences nested by mistake": "```python\ndef f(x):\n```python\ndef f(x):\n    return x + 2\n```",
    "fence without language": chat(WHOLE, ""),
    "fence with attributes": chat(WHOLE, "python title=f.py"),
    "fence in a list": "1. Write:\n\n   ```python\n   def f(x):\n       return x + 2\n   ```\n",
    "two-space body in a fence": "```python\n  y = helper(x)\n  return y + 1\n```",
    "prose after an unindented body": "```python\nreturn helper(x) + 1\nThat is it.\n```",
    "thought first": "<think>\nMaybe ```python\ndef f(x): return 0\n```\n</think>\n```python\n" + WHOLE + "```",
    "start token": "<|im_start|>assistant\n" + WHOLE + "<|im_end|>\n<|endoftext|>",
    "plain end token": BODY.rstrip() + "</s></s>",
    "end token on the last line of code": BODY.rstrip() + "<|im_end|>\n<|im_start|>user\nThanks",
    "end token, then another problem": BODY.rstrip() + "<|endoftext|>def f(x):\n    return 0\n",
    "end token within a string": '    return helper(x) + len("<s></s>") - 6\n',
    "unknown escape": '    return helper(x) + len("\\d") - 1\n',
    "prose that is Python": WHOLE + "\nDone\n\nComplexity: O(n)\n\n- fast\n\nNote: sorted_list\n\nfast, simple\n",
    "deep nesting": "    y = " + "1 + " * 2000 + "1\n" + BODY + "\nDone\n",
    "main block": WHOLE + "\nif __name__ == '__main__':\n    import sys\n    sys.exit(f(1))\n",
    "prints": WHOLE + "\nprint(f(1))\nprint('done')\n",
}


USAGE = "```python\nxs = 1\nf = f(xs)\nprint(f)\n```"
DRAFT = "def f(x):\n    return 0\n"
PAID |= {
    # A fence that only uses the function, after the one that defines it.
    "usage that rebinds the name": f"```python\n{WHOLE}```\nFor example:\n\n{USAGE}\n",
    "usage that rebinds the name, two of them": f"```python\n{WHOLE}```\n{USAGE}\nor\n{USAGE}\n",
    "usage that annotates the name": f"```python\n{WHOLE}```\n```python\nf: int = f(1)\n```",
    "usage first, then the function": f"{USAGE}\nwhere\n```python\n{WHOLE}```",
    "output of a run": f"```python\n{WHOLE}```\nOutput:\n```text\nf = 3\n```",
    "the same in Ruby": f"```python\n{WHOLE}```\nIn Ruby:\n```ruby\ndef f(x)\n  x + 2\nend\n```",
    "the wrong language's name": f"```javascript\n{WHOLE}```",
    "installing first": f"```bash\npip install nothing\n```\n```python\n{WHOLE}```",
    "function without a fence, usage in one": WHOLE + "\nExample:\n\n```\nf(1)\n```\n",
    "usage in a fence, function without one": "```\nf(1)\n```\nThe function is:\n\n" + WHOLE,
    "class as the function": chat("class f(int):\n    def __new__(cls, x):\n        return helper(x) + 1\n"),
    "chained assignment in a fence": chat("g = f = lambda x: helper(x) + 1"),
    "alias in a fence": chat("def add_two(x):\n    return x + 2\n\nf = add_two"),
    # Thoughts.
    "thought with an unfenced draft": "<think>\nPerhaps\n" + DRAFT + "No.\n</think>\n\n" + WHOLE,
    "thought, then the body": "<think>\nPerhaps def f(x): return 0\n</think>\n\n" + BODY,
    "thought, then the body at once": "<think>It is easy.</think>" + "\n" + BODY,
    "thought that the prompt opened": f"Perhaps\n```python\n{DRAFT}```\n</think>\n" + BODY,
    "thought that the prompt opened, then a fence": "Perhaps\n" + DRAFT + "</think>\n\n" + chat(WHOLE),
    "thought that the prompt opened, with tags in it": f"{DRAFT}<think>b</think>\n{DRAFT}</think>\n{WHOLE}",
    "two thoughts": f"<think>a</think>\n{WHOLE}\n<think>Is it right? ```{DRAFT}```</think>\nIt is.",
    "thought after the answer without an end": WHOLE + "\n<think>\nNow what?\n" + DRAFT,
    "thinking": f"<thinking>\n```python\n{DRAFT}```\n</thinking>\n```python\n{WHOLE}```",
    "thought in capital letters": f"<THINK>\n{DRAFT}</THINK>\n{WHOLE}",
    "thought in brackets": f"[THINK]\n{DRAFT}[/THINK]{WHOLE}",
    "thought between other signs": f"◁think▷\n{DRAFT}◁/think▷{WHOLE}",
    "channels": "<|channel|>analysis<|message|>"
    + DRAFT
    + "<|end|><|start|>assistant<|channel|>final<|message|>"
    + WHOLE,
    "tags of thoughts in strings": '    return helper(x) + len("<think>") - 6 + 0 * len(f"</think>{x}")\n',
    "a thought that holds tags in quotes": "<think>It is not '</think>' yet\n" + DRAFT + "</think>\n" + WHOLE,
    "a thought that holds an end token": WHOLE + "<|im_end|><think>" + DRAFT,
    # Tags around the answer.
    "answer tags": f"<think>Easy.</think>\n<answer>\n{WHOLE}</answer>",
    "answer tags in one line with the code": f"<answer>{WHOLE.rstrip()}</answer>",
    "answer tags around a fence": f"<answer>\n```python\n{WHOLE}```\n</answer>",
    "answer tags around a body": f"The body is\n<answer>\n{BODY}</answer>\nIt works.",
    "code tags": f"So:\n<code>\n{WHOLE}</code>\nIt isn't slow.",
    "tags of a web page": f'So:\n<pre><code class="language-python">{WHOLE}</code></pre>\nIt isn\'t slow.',
    "tags of CodeLlama": f"[PYTHON]\n{WHOLE}[/PYTHON]\n[TESTS]\nassert f(1) == 3\n[/TESTS]\n",
    "tags in a string": 'def f(x):\n    y = """\n<code>\n"""\n    return helper(x) + len(y) - 7\n',
    "tags in a docstring": 'def f(x):\n    """\n    <code>f(1)</code>\n    """\n    return x + 2\n\nDone, isn\'t it?',
    # Signs around and in the fences.
    "fence that ends after code": f"```python\n{WHOLE.rstrip()}```\nIt's done.",
    "fence that ends after code, at the end of the text": f"```python\n{WHOLE.rstrip()}```",
    "fence that ends after code, and another one": f"```python\n{WHOLE.rstrip()}```\n\n{USAGE}",
    "fence deep in a list": "1. Write:\n\n" + textwrap.indent(f"```python\n{WHOLE}```", "      ") + "\n2. Done\n",
    "fence after a bullet": "- ```python\n" + textwrap.indent(WHOLE, "  ") + "  ```\n- It's done\n",
    "fence after a number": "1. ```python\n" + textwrap.indent(WHOLE, "   ") + "   ```\n2. It's done\n",
    "fence in a quotation": "".join(f"> {line}\n" for line in f"So:\n```python\n{WHOLE}```".split("\n")),
    "fence after text": f"Here it is: ```python\n{WHOLE}```\nIt's done.",
    "bare fence after text": f"Here it is: ```\n{WHOLE}```\nIt's done.",
    "fence in the line of the code": f"```{WHOLE}```\nIt's done.",
    "fence in the line of the code, with a language": f"```python {WHOLE}```\nIt's done.",
    "tildes": f"So:\n~~~python\n{WHOLE}~~~\nIt's done.",
    "tildes around a body": f"The body:\n\n~~~\n{BODY}~~~\n",
    "tildes around backticks": f"~~~markdown\n# f\n```python\n{WHOLE}```\n~~~",
    "four backticks": f"````python\n{WHOLE}````\nIt's done.",
    "four backticks around a text with a fence": f"````markdown\n# f\n\n```python\n{WHOLE}```\nIt's done.\n````\n",
    "four backticks around a bare fence": f"````\n```\n{WHOLE}```\n````\n",
    "four backticks around a bare fence with a body": f"````\n```\n{BODY}```\n````\n",
    "inline code in a comment": "def f(x):\n    # Like ```helper```, twice.\n    return helper(x) + 1\n\nThat's it.\n",
    "inline code before the fence": f"Use ```helper``` and `f`:\n```python\n{WHOLE}```",
    "fence at the margin of a docstring in a fence": (
        "```python\n" + 'def f(x):\n    """\n```\nf(1)\n```\n    """\n    return helper(x) + 1\n' + "```\nIt's done."
    ),
    "fence in a docstring, and prose after it": (
        'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x + 2\n\nThat isn\'t slow.\n'
    ),
    "byte order mark": "\ufeff" + WHOLE,
    "byte order mark before a body": "\ufeff" + BODY,
    "byte order mark in a fence": "```python\n\ufeff" + WHOLE + "```",
    "code indented as Markdown does it": f"So:\n\n{textwrap.indent(WHOLE, '    ')}\nIt's done.\n",
    # An answer in several fences.
    "imports in a fence of their own": chat("import operator") + chat("def f(x):\n    return operator.add(x, 2)"),
    "import under another name": chat("import operator as op") + chat("def f(x):\n    return op.add(x, 2)"),
    "helper in a fence of its own": chat("def two():\n    return 2\n\n\nprint(two(), f)")
    + chat("def f(x):\n    return x + two()"),
    "helper of a helper": chat("A, B = 1, 2\nTWO = 1 + 1")
    + chat("@staticmethod\ndef two():\n    return TWO")
    + chat("def f(x):\n    return x + two()"),
    "an earlier fence that cannot run": chat("import no_such_module\nraise SystemExit") + chat(WHOLE),
    "an earlier draft that needs what is not there": chat("import no_such_module\n" + DRAFT) + chat(WHOLE),
    "an earlier fence that redefines a helper of the prompt": chat("def helper(x):\n    return 7") + chat(WHOLE),
    "body, then a test": f"The body is:\n```python\n{BODY}```\nTest:\n```python\nassert f(1) == 3\n```\n",
    "body without indentation, then a test": "```\nreturn helper(x) + 1\n```\n```\nassert f(1) == 3\nprint(f(2))\n```",
    "body that returns in branches, then a test": (
        "```python\nif x:\n    return helper(x) + 1\nelse:\n    return 2\n```\n```python\nassert f(1) == 3\n```"
    ),
    "body in a fence that the prompt opened, then another": BODY + "```\nNot:\n```python\n    return 0\n```\n",
    "body, then one in another language": f"```python\n{BODY}```\n```javascript\nreturn x\n```\n",
    "body without a fence, then an example in one": BODY + "\nExample:\n\n```python\nprint(f(1))\n```\n",
    "body without a fence, after a comment": "# Twice.\n" + BODY + "\n```python\nprint(f(1))\n```\n",
    "body without a fence, then another language": BODY + "\nOutput:\n\n```text\n3\n```\n",
    "body, then a future import": BODY + "\nfrom __future__ import annotations\nprint(1)\n",
    "body, then its output": f"```python\n{BODY}```\nOutput:\n```\n3\n```\n",
    # Text around code.
    "statements that only make sense in functions": WHOLE + "\nreturn f(1)\n",
    "break out of nothing": WHOLE + "\nbreak\n",
    "decorators without end": BODY + "@a\n" * 500,
    "lines joined without end": BODY + "x = \\\\\n" * 500,
}
if sys.version_info >= (3, 12):
    PAID |= {
        "type parameters": "def f[T: int](x: T) -> T:\n    return helper(x) + 1\n",
        "type parameters in a fence": chat("def f[T: int](x: T) -> T:\n    return helper(x) + 1\n"),
    }


@pytest.mark.parametrize("name", PAID)
def test_right_answers_are_paid(name: str):
    [verdict] = verdicts([PROMPT], [PAID[name]], test=[TEST], entry_point=["f"])
    assert verdict.message == "all tests passed"


UNPAID = {
    "nothing": "",
    "only prose": "I'm sorry, I can't do that.",
    "unfinished body": "    y = helper(x)\n    return (y +",
    "unfinished function": "def f(x):\n    return (helper(x) +",
    "wrong": "    return x\n",
    "right, then wrong": chat(WHOLE) + chat("def f(x):\n    return 0\n"),
    "wrongly indented body": "   y = 1\n    return helper(x) + 1\n",
    "body of another function": "```python\ndef g(x):\n    return helper(x) + 1\n```",
    "absurd nesting": "    return " + "(" * 5000,
    "absurd unary": "    return " + "-" * 100_000 + "1",
    "no text at all": "\x00",
    "half a character": "    return '\ud800'\n",
    "thought without end": f"<think>\nPerhaps\n```python\n{WHOLE}```\nBut",
    "thought without end, after text": f"Well. <think> Perhaps\n{WHOLE}",
    "only a thought": f"<think>\n```python\n{WHOLE}```\n</think>\n",
    "only a thought that the prompt opened": WHOLE + "</think>\nI don't know.",
    "right in the thought, wrong after it": f"<think>{WHOLE}</think>\n{DRAFT}",
    "right, then broken": chat(WHOLE) + chat("def f(x):\n    return (0"),
    "a mark after code, and then the end of its fence": f"```python\n{WHOLE.rstrip()}```\n```\n",
    "broken signature": "def f(x:\n    return helper(x) + 1\n",
    "method of a class": "class Solution:\n    @staticmethod\n    def f(x):\n        return x + 2\n",
    "right after the end of the text": "    return 0\n<|im_end|>\n" + WHOLE,
    "definition over two lines": "def\nf(x):\n    return x + 2\n",
}


@pytest.mark.parametrize("name", UNPAID)
def test_other_answers_are_not_paid(name: str):
    assert passes_tests([PROMPT], [UNPAID[name]], test=[TEST], entry_point=["f"]) == [0.0]


def test_a_broken_answer_fails_with_its_own_error_and_not_silently():
    [verdict] = verdicts([PROMPT], ["    return (\n"], test=[TEST], entry_point=["f"])
    assert verdict.outcome is Outcome.ERROR and "SyntaxError" in verdict.message


def test_the_prompt_is_kept_as_it_is():
    for completion in (BODY, WHOLE, chat(WHOLE), chat(BODY)):
        program = extract_code(PROMPT, completion, "f")
        assert program.startswith("import math\n\n\ndef helper(x):\n    return x + 1\n")
    assert extract_code(PROMPT, BODY, "f") == PROMPT + BODY


def test_a_prompt_may_end_anywhere_before_the_body():
    for prompt in (PROMPT.rstrip(), PROMPT + "    ", "def helper(x):\n    return x + 1\n\ndef f(x):\n", "def f(x):"):
        body = "return x + 2\n" if prompt.endswith("    ") else "    return x + 2\n"
        test = "def check(candidate):\n    assert candidate(1) == 3\n"
        completions = [body, "def f(x):\n    return x + 2\n", chat("    return x + 2")]
        assert passes_tests([prompt] * 3, completions, test=[test] * 3, entry_point=["f"] * 3) == [1.0] * 3, prompt


def test_a_prompt_in_words_needs_a_whole_function():
    test = "def check(candidate):\n    assert candidate(1) == 3\n"
    completions = ["def f(x):\n    return x + 2\n", chat("def f(x):\n    return x + 2"), "    return x + 2\n"]
    prompts = ["Write a function f that adds two; don't print."] * 3
    assert passes_tests(prompts, completions, test=[test] * 3, entry_point=["f"] * 3) == [1.0, 1.0, 0.0]


# --- no text does harm ---

NESTED = "".join(" " * (4 + depth) + "try:\n" for depth in range(14))
NESTED += "".join(" " * (4 + depth) + "finally:\n" + " " * (5 + depth) + "pass\n" for depth in reversed(range(14)))


def long(text: str) -> str:
    return text * (100_000 // len(text))


PIECES = (
    *("```\n", "```python\n", "`", "``` ", "~~~\n", "```x```\n", "- ", "> ", "> ```\n", "1. ```\n", "x```\n"),
    *("<think>", "</think>", "<answer>\n", "</answer>\n", "</answer>", "<code ", "<|im_end|", "<s>", "\ufeff\n"),
    *(
        '"""\n',
        "'''",
        '"',
        "\\\n",
        "(",
        "[",
        "{",
        ")",
        "(\n",
        "f(",
        "a[",
        "{1:",
        "-",
        "not ",
        "lambda: ",
        "f = ",
        "f=\n",
    ),
    *("def f(x):\n", "def f(", "def f(x): return 1\n", "class f:\n", "from __future__ import a\n", "import a\n"),
    *("a;", "a\n", "a==b\n", "[1],", "1+", "a.", "f'{a}'", "x = 1\n", "    x = 1\n", "    return x\n", "\treturn\n"),
    *(
        "if x:\n",
        "else:\n",
        "@a\n",
        "return\n",
        "async ",
        "await ",
        "\n",
        " ",
        "    \n",
        "\t",
        "\x0c",
        "\x00",
        "\ud800",
    ),
)
HOSTILE = {
    # These raised an exception once, or took seconds.
    "def and the name in two lines": "def\nf(x):\n    return 0\n",
    "the name and its assignment in two lines": "The function is\n\nf\n\n= the sum\n",
    "the same in a fence": "```python\ndef\nf(x):\n    return 0\n```",
    "nested finally": "    try:\n        pass\n    finally:\n" + NESTED,
    "nested finally at the margin": textwrap.dedent(NESTED) * 5 + WHOLE,
    "decorators": BODY + long("@a\n"),
    "joined lines": BODY + long("x = \\\n"),
    # The same kinds, in every part that reads.
    **{f"100 KB of {piece!r}": long(piece) for piece in PIECES},
    **{f"100 KB of {piece!r} before a function": long(piece) + "\n" + WHOLE for piece in PIECES},
    **{f"100 KB of {piece!r} after a body": BODY + long(piece) for piece in PIECES},
    "deep blocks": "".join(" " * depth + "if x:\n" for depth in range(400)),
    "growing fences": "\n".join("`" * length for length in range(3, 400)),
    "growing tildes and backticks": "\n".join("~`"[length % 2] * length for length in range(3, 400)),
}


# On a quiet machine each text takes about 0.2 s at most. A reader whose cost grows with the
# square of the length takes minutes, so this limit tells the two apart on a busy machine, too.
LIMIT = 3.0


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_raises_or_takes_long(name: str):
    start = time.process_time()
    program = extract_code(PROMPT, HOSTILE[name], "f")
    assert isinstance(program, str) and time.process_time() - start < LIMIT


TOKENS = (
    *("def f(x):", "def", " f", "f(x)", "f = ", "class f", "async ", "return ", "return x + 2", "    ", "\n", "\n    "),
    *("```", "```python\n", "\n```\n", "~~~", "````", "> ", "- ", "1. ", "`", "<think>", "</think>", "<answer>"),
    *("</answer>", "[PYTHON]", "<|im_end|>", "</s>", "<s>", "import math", "from __future__ import annotations\n"),
    *("if x:", "else:", "try:", "finally:", "lambda", "(", ")", "[", "]", "{", "}", ":", ";", ",", "=", "==", "@", "#"),
    *(
        "\\",
        "\\\n",
        '"',
        "'",
        '"""',
        "f'{",
        "yield",
        "await ",
        "break",
        "nonlocal x",
        "match x:",
        "case ",
        "\t",
        "\x0c",
    ),
    *("\x00", "\ufeff", "\ud800", "é", "Sure!", "Done", "1"),
)
PROMPTS = (PROMPT, PROMPT.rstrip(), "def f(x):", "def f(x):\n", "Write f.", "", "def f(x", 'def f(x):\n    """')
MIXES = st.lists(st.one_of(st.sampled_from(TOKENS), st.text(max_size=4)), max_size=40).map("".join)


@settings(deadline=None, max_examples=600, derandomize=True)
@given(st.sampled_from(PROMPTS), MIXES)
def test_any_mix_of_tokens_becomes_text_that_keeps_the_prompt(prompt: str, completion: str):
    program = extract_code(prompt, completion, "f")
    # A prompt that is not Python may give way to a whole function.
    assert prompt.rstrip() in program or not is_python(prompt + "\n    pass\n")


def test_code_that_is_too_long_to_be_read_is_taken_as_it_is():
    table = "    table = [" + "1, " * MAX_CODE + "]\n" + BODY
    assert extract_code(PROMPT, table, "f") == PROMPT + table
    whole = "def f(x):\n" + table
    assert extract_code(PROMPT, chat(whole), "f").endswith(whole)
    prose = WHOLE + "\nThat's it.\n" * MAX_CODE
    assert is_python(extract_code(PROMPT, prose, "f"))
    long_thought = f"<think>{chat(DRAFT) * 2000}</think>\n{chat(WHOLE)}"
    assert extract_code(PROMPT, long_thought, "f") == extract_code(PROMPT, chat(WHOLE), "f")
