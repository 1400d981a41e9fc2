import json
import os
import subprocess
import sys

import pytest
import torch
from small_run import small_settings, vowels

from helpers import checkpoints, evaluation, rewards, settings, train
from helpers.policy import load_policy, sample_completions
from helpers.runtime import CourseError

KEYS = [
    "profile",
    "model",
    "seed",
    "reward",
    "settings",
    "versions",
    "seconds",
    "train_seconds",
    "resumed",
    "before",
    "after",
    "change",
    "history",
]


def nothing(completions, **columns) -> list[float | None]:
    return [0.0] * len(completions)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command on a random model and eight problems, with two more rewards to choose from."""
    monkeypatch.setitem(settings.PROFILES, "tiny", small_settings(tmp_path))
    monkeypatch.setattr(rewards, "vowels", vowels, raising=False)
    monkeypatch.setattr(rewards, "nothing", nothing, raising=False)

    def run(*arguments, output="run", reward="vowels"):
        given = ["--profile", "tiny", "--output", str(tmp_path / output), "--reward", reward, *arguments]
        return train.main(given), tmp_path / output

    return run


def read(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads((folder / "result.json").read_text(), parse_constant=refuse)


def timeless(result):
    result = {key: value for key, value in result.items() if "seconds" not in key}
    result["history"] = [{k: v for k, v in row.items() if "seconds" not in k} for row in result["history"]]
    return result


def test_a_run_leaves_a_model_that_loads_and_the_whole_result(command, capfd):
    status, output = command("--max-steps", "3", "--seed", "7")
    assert status == 0
    result = read(output)
    assert list(result) == KEYS
    assert (result["profile"], result["seed"], result["reward"]) == ("tiny", 7, "vowels")
    assert (result["settings"]["max_steps"], result["settings"]["seed"]) == (3, 7)
    assert result["versions"]["trl"]
    assert result["resumed"] == []
    assert 0 < result["train_seconds"] < result["seconds"]
    assert [row["step"] for row in result["history"]] == [1, 2, 3]
    for when in ("before", "after"):
        assert set(result[when]) == {
            "greedy",
            "pass@1",
            "pass@8",
            "interval",
            "problems",
            "samples",
            "temperature",
        }
        assert (result[when]["problems"], result[when]["samples"]) == (6, 8)
    assert set(result["change"]) == {"greedy", "pass@1", "pass@8"}
    printed, errors = capfd.readouterr()
    assert "step   3/3" in printed and "95 % interval" in printed and "greedy" in printed
    assert errors == ""
    trained, tokenizer = load_policy(output)
    start, _ = load_policy(result["model"])
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert any(moved)
    assert len(sample_completions(trained, tokenizer, ["x"], max_completion_length=4)[0]) == 1


def test_the_same_seed_gives_the_same_result_and_another_seed_another(command):
    _, first = command(output="a")
    _, second = command(output="b")
    _, other = command("--seed", "1", output="c")
    assert timeless(read(first)) == timeless(read(second))
    assert timeless(read(first))["history"] != timeless(read(other))["history"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]


def test_before_and_after_are_measured_alike_and_as_the_settings_say(command, monkeypatch):
    measured = []
    real = evaluation.evaluate

    def evaluate(model, tokenizer, problems, **sampling):
        measured.append(([problem.task_id for problem in problems], sampling))
        return real(model, tokenizer, problems, **sampling)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    _, output = command("--seed", "5", "--max-steps", "1")
    assert len(measured) == 2 and measured[0] == measured[1]
    ids, sampling = measured[0]
    assert len(ids) == 6
    expected = {"num_samples": 8, "temperature": 1.0, "conversational": False, "max_completion_length": 8, "seed": 5}
    assert sampling == expected | {"batch_size": 256, "precision": "fp32"}


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    status, output = command()
    assert status == 2
    assert capsys.readouterr().err.endswith("is not empty: name another one, or add --overwrite.\n")
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_the_run_and_nothing_else(command, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    (output / "result.json").write_text("stale")
    assert command("--overwrite")[0] == 0
    assert (output / "mine.txt").read_text() == "keep"
    assert read(output)["profile"] == "tiny"


def test_a_run_that_fails_leaves_no_stale_result(command, tmp_path, capsys):
    output = tmp_path / "run"
    output.mkdir()
    (output / "result.json").write_text("stale")
    assert command("--overwrite", reward="nothing")[0] == 2
    assert not (output / "result.json").exists()
    assert "nothing can be learned" in capsys.readouterr().err


def test_no_signal_is_trained_on_when_allowed(command):
    status, output = command("--allow-no-signal", reward="nothing")
    assert status == 0
    assert {row["frac_reward_zero_std"] for row in read(output)["history"]} == {1.0}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--reward", "good_vibes"),
            'There is no reward "good_vibes" in helpers.rewards; choose one of: passes_tests,',
        ),
        (("--profile", "huge"), 'There is no profile "huge"; choose one of: tiny'),
        (("--max-steps", "0"), "max_steps must be at least 1, not 0."),
        (("--seed", "-1"), "seed must be at least 0, not -1."),
        (("--model", "data/absent"), "There is no model folder data/absent."),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(command, capsys, arguments, sentence):
    status, output = command(*arguments)
    printed = capsys.readouterr()
    assert status == 2
    assert printed.err.startswith(f"helpers.train: {sentence}") and printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (output / "result.json").exists()


def test_only_reward_functions_can_be_named():
    assert train.find_reward("passes_tests") is rewards.passes_tests
    for name in ("extract_code", "_check_column", "ast", "absent"):
        with pytest.raises(CourseError, match="choose one of: passes_tests"):
            train.find_reward(name)


def test_a_file_in_the_way_is_found_before_training(command, tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert command()[0] == 2
    assert "Results cannot be written to" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_found_before_training(command, monkeypatch, capsys):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(train, "run", lambda *_, **__: pytest.fail("trained"))
    assert command()[0] == 2
    assert "Permission denied" in capsys.readouterr().err


def test_numbers_that_json_lacks_become_null(tmp_path):
    train.write_result({"history": [{"loss": float("nan"), "grad_norm": float("inf"), "step": 1}]}, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == {"history": [{"loss": None, "grad_norm": None, "step": 1}]}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_help_and_wrong_arguments_load_no_heavy_library(root):
    # torch takes seconds to load: a question about the arguments should not wait for it
    program = (
        "import sys; from helpers import train\n"
        "status = train.main(['--profile', 'huge', '--output', 'x'])\n"
        "print(status, sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, env=os.environ)
    assert done.stdout == "2 []\n"
    asked = subprocess.run(
        [sys.executable, "-m", "helpers.train", "--help"], cwd=root, capture_output=True, text=True, env=os.environ
    )
    assert asked.returncode == 0 and "--allow-no-signal" in asked.stdout
