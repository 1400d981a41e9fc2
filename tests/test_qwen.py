"""The path of the profile qwen, from chat template to saved model, on local stand-ins and the real HumanEval."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_policies import CHATML, save_chat_policy, save_tiny_chat, write_mixed_problems
from random_policy import arithmetic_problems

from helpers import policy
from helpers.evaluation import evaluate
from helpers.policy import end_token_ids, load_policy, load_tokenizer, tokenize_prompt
from helpers.problems import INSTRUCTION, load_problems, prompt_of, prompt_text, read_problems, split_problems
from helpers.profiles import profile_settings
from helpers.training import build_trainer, history_frame, train_dataset
from tools.notebooks import execute

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "04_grpo_on_humaneval.ipynb"
QWEN = replace(profile_settings("qwen"), device="cpu", precision="fp32")
SMALL = replace(
    QWEN,
    prompts_per_step=3,
    num_generations=4,
    max_completion_length=24,
    max_steps=2,
    per_device_train_batch_size=4,
)


def vowels(completions, **columns):
    """Return the fraction of vowels in an answer: a reward with signal for a random model."""
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_chat_policy(tmp_path_factory.mktemp("chat"))


def trained(folder, output, settings, reward=vowels, **options):
    model, tokenizer = load_policy(folder)
    trainer = build_trainer(settings, model, tokenizer, arithmetic_problems(), reward, output, **options)
    trainer.train()
    return trainer


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.slow
def test_two_steps_on_humaneval_from_the_command_line(folder, tmp_path):
    command = [sys.executable, "-m", "helpers.train", "--profile", "qwen", "--model", str(folder), "--max-steps", "2"]
    command += ["--problems", "humaneval", "--held-out", "humaneval", "--eval-limit", "20"]
    command += ["--output", str(tmp_path / "run"), "--allow-no-signal"]  # a random model solves nothing
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "runs on the CPU, in fp32 instead of fp16" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["profile"], result["model"], len(result["history"])) == ("qwen", str(folder), 2)
    assert (result["settings"]["prompt"], result["settings"]["problems"]) == ("chat", "humaneval")
    for when in ("before", "after"):
        scores = result["held_out"]["humaneval"][when]
        assert (scores["problems"], scores["samples"]) == (20, 8)
    assert all(0 < row["completion_length"] < 512 for row in result["history"])
    model, tokenizer = load_policy(tmp_path / "run")
    assert tokenizer.chat_template == CHATML
    assert end_token_ids(model, tokenizer) == [tokenizer.eos_token_id, tokenizer.pad_token_id]


def test_trl_reads_the_same_prompts_and_samples_as_plainly_as_the_evaluation_does(folder, tmp_path):
    trainer = trained(folder, tmp_path, SMALL)
    tokenizer = trainer.processing_class
    problems = load_problems("humaneval")[:5]
    theirs, *_ = trainer._tokenize_prompts([prompt_text(problem, tokenizer, "chat") for problem in problems])
    assert theirs == [tokenize_prompt(tokenizer, prompt_of(problem, conversational=True)) for problem in problems]
    text = tokenizer.decode(theirs[0])
    assert text.startswith(f"<|im_start|>user\n{INSTRUCTION}") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}  # the checkpoint's are others
    assert {name: getattr(trainer.generation_config, name) for name in plain} == plain
    assert set(trainer.generation_config.eos_token_id) == set(end_token_ids(trainer.model, tokenizer))


def test_the_template_is_applied_and_the_problems_own_text_stays_beside_it(folder):
    tokenizer, problem = load_tokenizer(folder), load_problems("humaneval")[0]
    for asked, mode in ((None, "chat"), ("prefill", "prefill")):
        row = train_dataset(load_problems("humaneval"), replace(QWEN, prompt=asked), tokenizer)[0]
        assert row["prompt"] == prompt_text(problem, tokenizer, mode)
        assert row["code_prompt"] == problem.prompt


def test_rewards_get_text_without_marks_and_the_problems_own_text(folder, tmp_path):
    seen = []

    def spy(prompts, completions, code_prompt, **columns):
        seen.append((prompts, completions, code_prompt))
        return vowels(completions)

    trained(folder, tmp_path, SMALL, spy)
    assert len(seen) == SMALL.max_steps
    for prompts, completions, code_prompts in seen:
        assert len(prompts) == len(completions) == len(code_prompts) == 12
        for prompt, completion, code in zip(prompts, completions, code_prompts, strict=True):
            assert code.rstrip() in prompt and prompt.endswith("<|im_start|>assistant\n")
            assert isinstance(completion, str) and "<|im_end|>" not in completion


def test_micro_batches_add_up_to_the_step(folder, tmp_path):
    split = trained(folder, tmp_path / "split", SMALL)
    whole = trained(folder, tmp_path / "whole", replace(SMALL, per_device_train_batch_size=12))
    moved = weights(split.model) - weights(load_policy(folder)[0])
    assert 0 < moved.abs().max() < 1e-5  # two steps at 1e-6, which float32 weights take
    a, b = history_frame(split), history_frame(whole)
    for column in ("reward", "completion_length", "grad_norm", "loss"):
        assert a[column].to_numpy() == pytest.approx(b[column].to_numpy(), rel=1e-3, abs=1e-6)


def test_checkpointing_changes_memory_and_nothing_else(folder, tmp_path):
    saving = trained(folder, tmp_path / "saving", SMALL)
    assert SMALL.activation_checkpointing
    plain = trained(folder, tmp_path / "plain", replace(SMALL, activation_checkpointing=False))
    assert torch.allclose(weights(saving.model), weights(plain.model), rtol=0, atol=1e-9)


def test_masked_truncated_completions_teach_nothing(tmp_path):
    endless = save_chat_policy(tmp_path / "model", end_share=1e-6)
    before = weights(load_policy(endless)[0])
    cut = replace(SMALL, max_completion_length=4, max_steps=1)
    kept = trained(endless, tmp_path / "kept", replace(cut, mask_truncated_completions=False))
    masked = trained(endless, tmp_path / "masked", cut, allow_no_signal=True)
    assert history_frame(masked)["clipped_ratio"].iloc[-1] == 1
    assert torch.equal(weights(masked.model), before)
    assert not torch.equal(weights(kept.model), before)


def test_half_precision_is_the_same_before_in_and_after_training_and_keeps_float32_weights(
    folder, tmp_path, monkeypatch
):
    """Use bf16, which CPUs have too. fp16 takes the same path, but with gradient scaling, which only a GPU has."""
    # Sample here as on a GPU: on a CPU the course samples without autocast.
    monkeypatch.setattr(policy, "autocast", lambda model, name: torch.autocast("cpu", {"bf16": torch.bfloat16}[name]))
    half = replace(SMALL, precision="bf16", learning_rate=1e-12)  # too small a rate to change an answer
    model, tokenizer = load_policy(folder)
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    problems = arithmetic_problems()
    how = {"prompt": "chat", **half.sampling}
    before = evaluate(model, tokenizer, problems, **how)
    trainer = build_trainer(half, model, tokenizer, problems, vowels, tmp_path)
    trainer.train()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert trainer.accelerator.mixed_precision == "bf16"
    after = evaluate(model, tokenizer, problems, **how)
    assert (after.completions, after.greedy_completions) == (before.completions, before.greedy_completions)
    assert len(seen) > 80 and all(seen)
    assert before.completions != evaluate(model, tokenizer, problems, **how | {"seed": 1}).completions


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notebook_04_runs_with_another_profile(tmp_path, monkeypatch):
    start = save_tiny_chat(tmp_path / "model")
    problems = write_mixed_problems(tmp_path / "problems.jsonl", humaneval=8, tiny=24)
    train, held_out = split_problems(read_problems(problems))
    kinds = [{problem.task_id.split("/")[0] for problem in part} for part in (train, held_out)]
    assert kinds == [{"HumanEval", "mixed"}] * 2
    for name, value in {"GRPO_MODEL": start, "GRPO_MAX_STEPS": 2, "MBPP_PATH": problems}.items():
        monkeypatch.setenv(name, str(value))
    # A copy, in which only the line that names the profile is another. The first cell finds the course next to it.
    source = (ROOT / "notebooks" / NOTEBOOK).read_text(encoding="utf-8")
    assert source.count(r"profile = \"tiny\"") == 1
    copy = tmp_path / "notebooks" / NOTEBOOK
    copy.parent.mkdir()
    copy.write_text(source.replace(r"profile = \"tiny\"", r"profile = \"qwen\""), encoding="utf-8")
    (tmp_path / "helpers").symlink_to(ROOT / "helpers")
    notebook = execute(copy, tmp_path / "out")
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    text = "".join(output.get("text", "") for output in shown)
    assert f"{start} runs on the CPU, in fp32 instead of fp16" in text and "would show" in text
    run = tmp_path / "out" / "04_grpo_on_humaneval"
    result = json.loads((run / "result.json").read_text())
    assert (result["profile"], result["held_out"]["mbpp"]["before"]["problems"]) == (
        "qwen",
        len(split_problems(read_problems(problems), 0.25)[1]),
    )
    assert 0 < result["history"][0]["reward"] < 1
    moved = weights(load_policy(run / "model")[0]) - weights(load_policy(start)[0])
    assert 0 < moved.abs().max() < 1e-5


@pytest.mark.parametrize("model", [[], ["--model", "owner/model"]])
def test_without_gpu_or_network_the_command_answers_in_seconds_with_one_sentence(model, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "helpers.train", "--profile", "qwen", "--output", str(tmp_path / "run"), *model]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    said = "owner/model is not on this machine, and http://127.0.0.1:9 cannot be reached" if model else "needs a GPU"
    assert said in sentence and "profile tiny" in sentence
