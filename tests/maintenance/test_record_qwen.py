"""python -m tools.record qwen, in small: what it writes, how it continues, and that it measures nothing twice."""

import csv
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
from chat_policies import save_tiny_chat, small_qwen_cpu
from small_run import vowels

from helpers import policy, profiles, rewards, train
from tools.record import __main__, qwen

NAMES = {"before.json", "solved.json"}
RUN = {"vowels_seed0" + end for end in (".json", "_steps.csv", "_problems.csv", "_examples.jsonl")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose name is in no other text."""
    place = tmp_path_factory.mktemp("a-place-on-this-machine")
    save_tiny_chat(place / "model")
    return place


@pytest.fixture(scope="module")
def recorder(place):
    """Run the recorder. `events` are things to do at a call of the reward: {2: interrupt} ends the second step."""

    def run(*options, runs="runs", record="record", events=None):
        calls = itertools.count(1)

        def eventful(completions, **columns):
            (events or {}).get(next(calls), lambda: None)()
            return vowels(completions)

        eventful.__name__ = "vowels"
        folders = ["--model", str(place / "model"), "--runs", str(place / runs), "--output", str(place / record)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rewards, "vowels", eventful, raising=False)
            patched.setitem(profiles.PROFILES, "qwen-cpu", small_qwen_cpu())
            reward = () if "--reward" in options else ("--reward", "vowels")
            return __main__.main(["qwen", *folders, *reward, "--eval-limit", "4", *options])

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield run
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def record(recorder, place):
    """The record of a run that was interrupted after two of its three steps."""
    assert recorder(events={2: interrupt}) == 1
    assert recorder() == 0
    return place / "record"


@pytest.fixture
def measured(monkeypatch):
    """Refuse to count the solved problems again, and return a list that gets an entry for each evaluation."""
    monkeypatch.setattr(policy, "sample_completions", lambda *_, **__: pytest.fail("counted the solved again"))
    evaluated, real = [], train._evaluate_sets
    monkeypatch.setattr(train, "_evaluate_sets", lambda *given: evaluated.append(1) or real(*given))
    return evaluated


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def rows_of(path: Path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_record_holds_scores_steps_verdicts_and_examples_that_agree(record):
    assert {path.name for path in record.iterdir()} == NAMES | RUN
    result = json.loads((record / "vowels_seed0.json").read_text())
    assert (result["model"], result["settings"]["model"], result["reward"]) == (qwen.NAME, qwen.NAME, "vowels")
    assert result["resumed"] == [2] and "cores" in result["machine"] and "history" not in result
    steps = rows_of(record / "vowels_seed0_steps.csv")
    assert [float(row["step"]) for row in steps] == [1, 2, 3] and all(float(row["sampling_seconds"]) for row in steps)
    problems = rows_of(record / "vowels_seed0_problems.csv")
    for name, scores in result["held_out"].items():
        own = [row for row in problems if row["set"] == name]
        assert len(own) == scores["before"]["problems"] == 4
        for when in ("before", "after"):
            assert sum(int(row[f"greedy_{when}"]) for row in own) / 4 == scores[when]["greedy"]
            assert sum(int(row[f"correct_{when}"]) for row in own) / 8 == scores[when]["pass@1"]
        assert {row["samples"] for row in own} == {"2"}
    examples = [json.loads(line) for line in (record / "vowels_seed0_examples.jsonl").read_text().splitlines()]
    assert {(one["set"], one["task_id"]) for one in examples} == {(row["set"], row["task_id"]) for row in problems}
    before = json.loads((record / "before.json").read_text())
    for one in examples:
        of_set = before["evaluations"][one["set"]]
        place = of_set["task_ids"].index(one["task_id"])
        assert one["completion_before"] == of_set["greedy_completions"][place]
    assert before["given"]["model"] == json.loads((record / "solved.json").read_text())["given"]["model"] == qwen.NAME


def test_no_file_of_the_record_names_a_place_on_the_machine(record, place):
    for path in record.iterdir():
        text = path.read_text()
        assert place.name not in text and str(Path.home()) + "/" not in text, path.name


def test_a_finished_run_is_not_trained_again(record, recorder, measured, capsys):
    there = {path.name: path.read_bytes() for path in record.iterdir()}
    assert recorder(events={1: lambda: pytest.fail("trained")}) == 0
    assert not measured
    assert {path.name: path.read_bytes() for path in record.iterdir()} == there
    assert "held-out problems of humaneval" in capsys.readouterr().out


def test_what_the_record_knows_serves_every_other_run_also_on_another_machine(record, recorder, measured, place):
    kept = {name: (record / name).read_bytes() for name in NAMES}
    assert recorder("--reward", "random_reward", "--seed", "3", "--max-steps", "1", runs="elsewhere") == 0
    assert measured == [1]  # only the one after training
    assert {name: (record / name).read_bytes() for name in NAMES} == kept
    first, other = (json.loads((record / f"{n}.json").read_text()) for n in ("vowels_seed0", "random_reward_seed3"))
    assert other["training_problems"] == first["training_problems"]
    assert other["held_out"]["tiny"]["before"] == first["held_out"]["tiny"]["before"]
    assert place.name not in (record / "random_reward_seed3.json").read_text()


def test_an_interruption_names_the_way_on_and_loses_nothing(recorder, place, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(train, "_evaluate_sets", lambda *_: interrupt())
        assert recorder(runs="again", record="second") == 1
    assert not (place / "second" / "before.json").exists()
    counted = (place / "again/vowels_seed0/solved.json").read_bytes()
    monkeypatch.setattr(policy, "sample_completions", lambda *_, **__: pytest.fail("counted the solved again"))
    assert recorder("--max-steps", "1", runs="again", record="second", events={1: interrupt}) in (0, 1)
    assert (place / "again/measured/solved.json").read_bytes() == counted
    said = capsys.readouterr().err.splitlines()
    assert said and all(
        line.endswith("The same command continues with what was being measured.") for line in said if line
    )
