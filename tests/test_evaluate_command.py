import json

import pytest
from chat_policies import save_chat_policy
from small_run import small_settings

from helpers import evaluate
from helpers.evaluation import Evaluation
from helpers.problems import read_problems


@pytest.fixture
def command(tmp_path):
    settings = small_settings(tmp_path)

    def run(*arguments, model=settings.model, problems=settings.problems, output="scores"):
        given = ["--model", model, "--problems", problems, "--max-completion-length", "8", *arguments]
        return evaluate.main([*given, "--output", str(tmp_path / output)]), tmp_path / output

    return run


def test_a_model_is_measured_and_its_samples_are_written(command, capsys):
    status, output = command("--samples", "2", "--limit", "3")
    assert status == 0
    result = json.loads((output / "result.json").read_text())
    assert (result["problems"], result["samples"], result["prompt"]) == (3, 2, "plain")
    assert set(result["interval"]) == {"greedy", "pass@1"} and result["pass@8"] is None
    problems = read_problems(output / "problems.jsonl")
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in rows] == [problem.task_id for problem in problems for _ in range(2)]
    evaluation = Evaluation(**result["evaluation"])
    texts = [text.replace("\r", "\n") for texts in evaluation.completions for text in texts]
    assert [row["completion"].rstrip() for row in rows] == [text.rstrip() for text in texts]
    assert "pass@1" in capsys.readouterr().out


def test_without_samples_only_greedy_is_measured(command):
    _, output = command("--samples", "0")
    result = json.loads((output / "result.json").read_text())
    assert set(result["interval"]) == {"greedy"}
    rows = (output / "samples.jsonl").read_text().splitlines()
    assert len(rows) == result["problems"]


def test_eight_samples_give_pass_at_8(command):
    _, output = command("--limit", "1")
    assert "pass@8" in json.loads((output / "result.json").read_text())["interval"]


def test_a_chat_model_is_asked_in_a_message(command, tmp_path):
    _, output = command("--samples", "0", "--limit", "1", model=str(save_chat_policy(tmp_path / "chat")))
    assert json.loads((output / "result.json").read_text())["prompt"] == "chat"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "data/absent"}, "There is no model folder data/absent."),
        ({"problems": "absent.jsonl"}, "absent.jsonl could not be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(command, capsys, changes, sentence):
    status, output = command(**changes)
    assert status == 2 and not list(output.iterdir())
    errors = capsys.readouterr().err
    assert errors.startswith(f"helpers.evaluate: {sentence}") and errors.count("\n") == 1


def test_nothing_is_overwritten_unasked(command, capsys):
    _, output = command("--samples", "0", "--limit", "1")
    old = (output / "result.json").read_text()
    assert command("--samples", "0", "--limit", "2")[0] == 2
    assert "is not empty" in capsys.readouterr().err and (output / "result.json").read_text() == old
    assert command("--samples", "0", "--limit", "2", "--overwrite")[0] == 0
    assert (output / "result.json").read_text() != old
