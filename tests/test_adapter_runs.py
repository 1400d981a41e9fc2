"""Runs of the profile qwen-cpu in small, from the command line: an adapter on a chat model that can learn."""

import itertools
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from chat_policies import save_tiny_chat, small_qwen_cpu
from peft import PeftModel
from small_run import vowels

from helpers import policy, profiles, rewards, train
from helpers.hub import is_adapter
from helpers.lora import load_adapter
from helpers.policy import load_policy, sample_completions
from helpers.problems import prompt_text, read_problems

HELD_OUT = ("tiny", "humaneval")
OPTIONS = ["--lora-rank", "4", "--prompt", "prefill", "--keep-solvable", "4", "--eval-limit", "5", "--merge"]
OPTIONS += [word for name in HELD_OUT for word in ("--held-out", name)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def command(model, tmp_path_factory):
    """Run the command. `events` are things to do at a call of the reward: {2: interrupt} interrupts the second step."""

    def run(*options, output=None, events=None):
        output = output or tmp_path_factory.mktemp("runs") / "run"
        calls = itertools.count(1)

        def eventful(completions, **columns):
            (events or {}).get(next(calls), lambda: None)()
            return vowels(completions)

        eventful.__name__ = "vowels"
        given = ["--profile", "qwen-cpu", "--model", str(model), "--reward", "vowels", "--output", str(output)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rewards, "vowels", eventful, raising=False)
            patched.setitem(profiles.PROFILES, "qwen-cpu", small_qwen_cpu())
            return train.main([*given, *OPTIONS, "--eval-samples", "1", *options]), output

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield run
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(command):
    status, output = command()
    assert status == 0
    return output


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def read(folder, name="result.json"):
    return json.loads((folder / name).read_text())


def end_of(folder):
    """Return everything that must be the same at the end of a run: the result without times, and the adapter."""
    result = read(folder)
    result["history"] = [{k: v for k, v in row.items() if "seconds" not in k} for row in result["history"]]
    result = {k: v for k, v in result.items() if "seconds" not in k and k not in ("resumed", "peak_memory")}
    return result, (folder / "adapter_model.safetensors").read_bytes()


def greedy(folder_or_pair, problems):
    model, tokenizer = folder_or_pair if isinstance(folder_or_pair, tuple) else load_policy(folder_or_pair)
    prompts = [prompt_text(problem, tokenizer, "prefill") for problem in problems]
    settings = small_qwen_cpu().sampling | {"temperature": 0, "ends": profiles.function_ended}
    return [text for (text,) in sample_completions(model, tokenizer, prompts, **settings)]


def test_the_result_says_what_was_asked_for(whole):
    result = read(whole)
    settings = result["settings"]
    expected = {"lora_rank": 4, "prompt": "prefill", "keep_solvable": 4, "eval_limit": 5, "eval_samples": 1}
    assert {name: settings[name] for name in expected} == expected and settings["held_out"] == list(HELD_OUT)
    assert list(result["held_out"]) == list(HELD_OUT)
    for scores in result["held_out"].values():
        assert set(scores["change"]) == {"greedy", "pass@1"}  # of one sample there is no pass@8
        for when in ("before", "after"):
            assert (scores[when]["problems"], scores[when]["samples"]) == (5, 1)
            assert scores[when]["pass@8"] is None
    assert [row["step"] for row in result["history"]] == [1, 2, 3]
    assert all(0 < row["sampling_seconds"] < row["seconds"] for row in result["history"])


def test_it_trains_on_the_problems_that_were_solved_sometimes(whole):
    solved = read(whole, "solved.json")["solved"]
    trained = read(whole)["training_problems"]
    assert len(solved) == small_qwen_cpu().train_limit
    assert 3 <= len(trained) < len(solved)
    assert trained == [name for name, count in solved.items() if 0 < count < 4]
    assert not set(trained) & {problem.task_id for problem in read_problems(whole / "held_out_tiny.jsonl")}


def test_adapter_and_merged_model_load_and_write_what_was_measured(whole, model):
    assert is_adapter(whole) and not list(whole.glob("model*")) and not is_adapter(whole / "merged")
    loaded, tokenizer = load_policy(whole)
    assert isinstance(loaded, PeftModel) and tokenizer.chat_template
    assert {weight.shape[0] for name, weight in loaded.named_parameters() if "lora_A" in name} == {4}
    assert any(weight.any() for name, weight in loaded.named_parameters() if "lora_B" in name)
    after, before = read(whole, "after.json"), read(whole, "before.json")["evaluations"]
    for name in HELD_OUT:
        problems = read_problems(whole / f"held_out_{name}.jsonl")
        assert greedy(load_adapter(whole, dtype=torch.float32), problems) == after[name]["greedy_completions"]
        assert greedy(whole / "merged", problems) == after[name]["greedy_completions"]
        assert greedy(model, problems) == before[name]["greedy_completions"]
    assert before != after


def test_an_interrupted_run_ends_with_the_same_adapter_and_measures_nothing_twice(command, whole, capsys, monkeypatch):
    status, output = command(events={2: interrupt})
    assert status == 130 and "--resume" in capsys.readouterr().err
    assert not is_adapter(output)
    assert (output / "before.json").read_bytes() == (whole / "before.json").read_bytes()
    # The attempts on the training problems are sampled by this name, and the evaluations and steps by others.
    monkeypatch.setattr(policy, "sample_completions", lambda *_, **__: pytest.fail("counted the solved again"))
    evaluated, real = [], train._evaluate_sets
    monkeypatch.setattr(train, "_evaluate_sets", lambda *given: evaluated.append(1) or real(*given))
    assert command("--resume", output=output)[0] == 0
    assert evaluated == [1]
    assert read(output)["resumed"] == [2]
    assert end_of(output) == end_of(whole)


def test_what_another_run_measured_is_taken_over(command, whole, capsys, monkeypatch):
    monkeypatch.setattr(policy, "sample_completions", lambda *_, **__: pytest.fail("counted the solved again"))
    evaluated, real = [], train._evaluate_sets
    monkeypatch.setattr(train, "_evaluate_sets", lambda *given: evaluated.append(1) or real(*given))
    status, output = command("--measured", str(whole), "--seed", "1", "--max-steps", "1")
    assert status == 0 and evaluated == [1]
    for name in ("before.json", "solved.json"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    assert read(output)["training_problems"] == read(whole)["training_problems"]
    for name in HELD_OUT:
        assert read(output)["held_out"][name]["before"] == read(whole)["held_out"][name]["before"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--eval-samples", "2"), "eval_samples 1 (now 2)."),
        (("--eval-limit", "4"), "tiny "),
        (("--prompt", "chat"), "prompt prefill (now chat)."),
    ],
)
def test_what_was_measured_with_other_settings_is_refused(changed, said, command, whole, capsys):
    status, output = command("--measured", str(whole), "--keep-solvable", "0", *changed)
    errors = capsys.readouterr().err
    assert status == 2 and errors.count("\n") == 1
    assert "before.json belongs to other settings: " in errors and said in errors
    assert not (output / "result.json").exists()


def test_layers_that_the_model_lacks_are_one_sentence(command, model, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(profiles.PROFILES, "qwen-cpu", replace(small_qwen_cpu(), lora_layers=(3, 4)))
    given = ["--profile", "qwen-cpu", "--model", str(model), "--output", str(tmp_path / "run")]
    assert train.main(given) == 2
    assert "lora_layers between 0 and 3, as the model has 4 layers, not 16 and (3, 4)." in capsys.readouterr().err
