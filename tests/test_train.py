import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_run import small_settings, vowels

from helpers import evaluation, profiles, rewards, run_folder, train
from helpers.policy import load_policy, sample_completions
from helpers.problems import load_problems, split_problems, write_problems
from helpers.runtime import CourseError
from helpers.verifier import isolation_report

KEYS = [
    "profile",
    "model",
    "seed",
    "reward",
    "settings",
    "processes",
    "versions",
    "isolation",
    "training_problems",
    "refused",
    "seconds",
    "train_seconds",
    "peak_memory",
    "resumed",
    "before",
    "after",
    "change",
    "held_out",
    "history",
]


def nothing(completions, **columns) -> list[float | None]:
    return [0.0] * len(completions)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command on a random model and twelve problems, with two more rewards to choose from."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", small_settings(tmp_path))
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
    result = {key: value for key, value in result.items() if "seconds" not in key and key != "peak_memory"}
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
    assert result["isolation"] == {name: layer.on for name, layer in isolation_report().items()}
    assert result["resumed"] == [] and result["refused"] == {}
    assert 0 < result["train_seconds"] < result["seconds"]
    assert result["train_seconds"] == pytest.approx(sum(row["seconds"] for row in result["history"]))
    assert [row["step"] for row in result["history"]] == [1, 2, 3]
    assert len(result["training_problems"]) == 6 and result["peak_memory"] > 100e6
    (scores,) = result["held_out"].values()
    assert list(result["held_out"]) == ["problems"]  # the file's name
    for when in ("before", "after"):
        assert set(scores[when]) == {"greedy", "pass@1", "pass@8", "interval", "problems", "samples", "temperature"}
        assert (scores[when]["problems"], scores[when]["samples"]) == (6, 8)
    assert set(scores["change"]) == {"greedy", "pass@1", "pass@8"}
    printed, errors = capfd.readouterr()
    assert "step   3/3" in printed and run_folder.before_after_table(result) in printed
    assert errors == ""
    problems = load_problems(output / "held_out_problems.jsonl")
    assert not {problem.task_id for problem in problems} & set(result["training_problems"])
    for when in ("before", "after"):
        rows = [json.loads(line) for line in (output / f"samples_problems_{when}.jsonl").read_text().splitlines()]
        assert [row["task_id"] for row in rows] == [problem.task_id for problem in problems for _ in range(8)]
        evaluation = json.loads((output / f"{when}.json").read_text())
        evaluation = (evaluation["evaluations"] if when == "before" else evaluation)["problems"]
        assert sum(map(sum, evaluation["passed"])) / 48 == scores[when]["pass@1"]
    trained, tokenizer = load_policy(output)
    start, _ = load_policy(result["model"])
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert any(moved)
    assert len(sample_completions(trained, tokenizer, ["x"], max_completion_length=4)[0]) == 1


def break_solution(folder, of_training):
    """Give one problem of the small run, which is or is not trained on, a solution that fails. Returns its task_id."""
    path = folder / "problems.jsonl"
    problems = load_problems(path)
    broken = split_problems(problems, 0.5)[0 if of_training else 1][0].task_id
    changed = [replace(p, canonical_solution="    return None\n") if p.task_id == broken else p for p in problems]
    write_problems(changed, path)
    return broken


def test_a_training_problem_whose_own_solution_fails_is_left_out(command, tmp_path, capsys):
    broken = break_solution(tmp_path, of_training=True)
    status, output = command("--max-steps", "1")
    assert status == 0
    refused = read(output)["refused"]
    assert list(refused) == [broken] and "own solution fails" in refused[broken]
    printed = capsys.readouterr().out
    assert f"Left out {broken}: its own solution fails" in printed
    assert "1 steps on 5 problems; held out: 6 (problems)." in printed


def test_a_held_out_problem_whose_own_solution_fails_stops_the_run(command, tmp_path, capsys):
    broken = break_solution(tmp_path, of_training=False)
    status, output = command("--max-steps", "1")
    assert status == 2 and not (output / "result.json").exists()
    assert f"The held-out problem {broken} cannot be used: its own solution fails" in capsys.readouterr().err


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

    def evaluate(model, tokenizer, problems, progress, **sampling):
        measured.append(([problem.task_id for problem in problems], sampling))
        return real(model, tokenizer, problems, **sampling)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    command("--seed", "5", "--max-steps", "1")
    assert len(measured) == 2 and measured[0] == measured[1]
    ids, sampling = measured[0]
    assert len(ids) == 6
    expected = {"num_samples": 8, "temperature": 1.0, "prompt": "plain", "max_completion_length": 8, "seed": 5}
    assert sampling == expected | {"batch_size": 256, "precision": "fp32", "ends": None}


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    status, output = command()
    assert status == 2
    assert capsys.readouterr().err.endswith("is not empty: choose another one, or add --overwrite.\n")
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


def test_an_old_adapter_does_not_stay_next_to_the_model_of_a_new_run(tmp_path):
    for name in (
        "result.json",
        "before.json",
        "solved.json",
        *run_folder.ADAPTER,
        "samples_a_before.jsonl",
        "mine.txt",
    ):
        (tmp_path / name).write_text("old")
    (tmp_path / run_folder.MERGED).mkdir()
    run_folder.prepare_output(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_evaluation_is_not_read(tmp_path):
    run_folder.write_evaluations({"a": {}}, {"model": "m"}, tmp_path / "before.json")
    assert run_folder.read_evaluations(tmp_path / "before.json", {"model": "m"}) == {"a": {}}
    assert run_folder.read_evaluations(tmp_path / "absent.json", {"model": "m"}) is None
    with pytest.raises(CourseError, match=r"belongs to other settings: model m \(now other\)\."):
        run_folder.read_evaluations(tmp_path / "before.json", {"model": "other"})
    (tmp_path / "before.json").write_text("{")
    with pytest.raises(CourseError, match="before.json is damaged: start again"):
        run_folder.read_evaluations(tmp_path / "before.json", {"model": "m"})


def test_a_run_without_signal_leaves_an_empty_folder_for_the_next_one(command, tmp_path, capsys):
    output = tmp_path / "run"
    output.mkdir()
    (output / "result.json").write_text("stale")
    assert command("--overwrite", reward="nothing")[0] == 2
    assert "nothing can be learned" in capsys.readouterr().err
    assert list(output.iterdir()) == []
    assert command("--allow-no-signal", reward="nothing")[0] == 0
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
        (("--seed", "-1"), "seed must be at least 0 and at most 4294967295, not -1."),
        (("--seed", str(2**32)), "seed must be at least 0 and at most 4294967295, not 4294967296."),
        (("--model", "data/absent"), "There is no model folder data/absent."),
        (("--prompt", "caht"), 'prompt must be one of chat, prefill, plain, not "caht".'),
        (("--prompt", "chat"), 'The prompt mode "chat" needs a chat template, and this model has none'),
        (("--keep-solvable", "1"), "keep_solvable must be 0 or at least 2"),
        (("--held-out", "2"), "The share of problems to hold out must lie between 0 and 1, not 2."),
        (("--problems", "absent.jsonl"), "absent.jsonl could not be read"),
        (("--merge",), "There is no adapter to merge: add --lora-rank, or leave out --merge."),
        (("--measured", "absent"), "The folder absent has no before.json to take over."),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(command, capsys, arguments, sentence):
    status, output = command(*arguments)
    printed = capsys.readouterr()
    assert status == 2
    assert printed.err.startswith(f"helpers.train: {sentence}") and printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (output / "result.json").exists()


def test_only_public_functions_that_trl_can_call_are_rewards(monkeypatch):
    assert train.find_reward("passes_tests") is rewards.passes_tests

    def as_trl_types_it(prompts, completions, **kwargs) -> list[float]:
        return [0.0] * len(completions)

    monkeypatch.setattr(rewards, "as_trl_types_it", as_trl_types_it, raising=False)
    monkeypatch.setattr(rewards, "_private", as_trl_types_it, raising=False)
    assert train.find_reward("as_trl_types_it") is as_trl_types_it
    for name in ("extract_code", "_private", "Submission", "verdicts", "absent", ""):
        with pytest.raises(CourseError, match="choose one of: passes_tests"):
            train.find_reward(name)


def test_numbers_that_json_lacks_become_null(tmp_path):
    row = {"loss": float("nan"), "grad_norm": float("inf"), "step": 1}
    run_folder.write_result({"history": [row]}, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == {"history": [{"loss": None, "grad_norm": None, "step": 1}]}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_folder_in_the_home_of_the_reader(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(train, "run", lambda settings, reward, output, **options: pytest.fail(str(output)))
    with pytest.raises(pytest.fail.Exception, match=f"^{tmp_path}/mine$"):
        train.main(["--profile", "tiny", "--output", "~/mine"])


def test_help_and_wrong_arguments_do_not_load_the_slowest_libraries(root):
    # They take up to ten seconds, and a question about the arguments should not wait for them.
    program = (
        "import sys; from helpers import train\n"
        "status = train.main(['--profile', 'huge', '--output', 'x'])\n"
        "print(status, sorted({'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, env=os.environ)
    assert done.stdout == "2 []\n"
    asked = subprocess.run(
        [sys.executable, "-m", "helpers.train", "--help"], cwd=root, capture_output=True, text=True, env=os.environ
    )
    assert asked.returncode == 0 and "--allow-no-signal" in asked.stdout


def test_torch_is_imported_only_when_its_threads_are_told_to_sleep(root):
    # OpenMP reads OMP_WAIT_POLICY when torch is imported. Set too late, two busy cores halve the speed of training.
    program = """
import sys
from helpers import train
assert "torch" not in sys.modules
import os
train.main(["--profile", "huge", "--output", "x"])
assert "torch" in sys.modules and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
