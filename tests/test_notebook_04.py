"""Notebook 04: its literal trainer is the one that helpers.train builds, and its cells run with another profile."""

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from try_exercises import source_of

from helpers.policy import load_policy, save_policy
from helpers.problems import load_sets, write_problems
from helpers.profiles import profile_settings
from helpers.rewards import passes_tests
from helpers.training import build_trainer, grpo_config, train_dataset
from tools.notebooks import execute

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "notebooks" / "04_grpo_on_humaneval.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
TINY = profile_settings("tiny")


def cell(name: str) -> str:
    (source,) = (source_of(cell) for cell in CELLS if cell["id"] == name)
    return source


def first_cell_with(text: str) -> int:
    return next(i for i, one in enumerate(CELLS) if one["cell_type"] == "code" and text in source_of(one))


@pytest.fixture
def shown(tmp_path, monkeypatch) -> dict[str, Any]:
    """Run the cells up to the trainer, in this process, without the training. Returns their names."""
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    names: dict[str, Any] = {}
    for name in ("train-1", "train-2", "train-3", "train-4", "train-5", "train-5b"):
        exec(cell(name), names)
    exec(cell("train-6").replace("trainer.train()\n", ""), names)
    return names


def test_learning_is_on_the_page_early_and_the_notebook_is_short():
    assert len(CELLS) <= 70
    parts = [first_cell_with(text) for text in ("Dataset.from_list(", "GRPOConfig(", "GRPOTrainer(", "trainer.train()")]
    assert parts == sorted(parts) and parts[-1] < 20
    assert sum(source_of(one).count('profile = "tiny"') for one in CELLS if one["cell_type"] == "code") == 1


def test_the_literal_configuration_is_that_of_the_profile(shown, capsys):
    built = grpo_config(TINY, shown["config"].output_dir)
    for field in fields(GRPOConfig):
        assert getattr(shown["config"], field.name) == getattr(built, field.name), field.name
    assert shown["differing"] == {}


def test_each_literal_value_differs_from_trls_default_and_has_a_reason():
    plain = GRPOConfig(output_dir="unused", use_cpu=True)
    lines = [line.strip() for line in cell("train-5").splitlines() if line.startswith("    ")]
    for line in lines[1:]:  # the first is the folder
        name, _, value = line.partition("=")
        value, _, why = value.partition(",  # ")
        assert why, line
        assert name == "use_cpu" or getattr(plain, name) != eval(value), line


def test_a_literal_value_that_drifts_is_noticed_and_not_trained_with(shown):
    exec(cell("train-5").replace("3.5e-4", "3.4e-4"), shown)
    exec(cell("train-5b"), shown)
    assert shown["differing"] == {"learning_rate": 3.5e-4}
    assert shown["config"].learning_rate == 3.5e-4


def test_the_literal_trainer_trains_what_helpers_build(shown, tmp_path):
    train, _ = load_sets("tiny")
    model, tokenizer = load_policy(TINY.model)
    assert shown["dataset"].to_dict() == train_dataset(train, TINY, tokenizer).to_dict()
    trainer = shown["trainer"]
    assert type(trainer) is GRPOTrainer
    assert trainer.args is shown["config"]
    assert trainer.train_dataset.to_dict() == shown["dataset"].to_dict()
    built = build_trainer(TINY, model, tokenizer, train, passes_tests, tmp_path / "built")
    assert trainer.reward_func_names == built.reward_func_names == ["passes_tests"]
    assert trainer.reward_funcs == [passes_tests]
    assert (trainer.ref_model, trainer.rollout_func) == (None, None) == (built.ref_model, built.rollout_func)
    for ours, theirs in zip(trainer.model.parameters(), built.model.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.requires_grad and ours.dtype == torch.float32


@pytest.mark.slow
def test_training_again_starts_from_the_untrained_model(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    monkeypatch.setenv("GRPO_MAX_STEPS", "1")
    names: dict[str, Any] = {}
    for name in ("train-1", "train-2", "train-3", "train-4", "train-5", "train-5b", "train-6"):
        exec(cell(name), names)
    assert names["differing"] == {"max_steps": 1}
    once = {name: weights.clone() for name, weights in names["policy"].state_dict().items()}
    exec(cell("train-6"), names)
    again = names["policy"].state_dict()
    assert all(torch.equal(weights, again[name]) for name, weights in once.items())
    start = load_policy(TINY.model)[0].state_dict()
    assert any(not torch.equal(weights, start[name]) for name, weights in once.items())


def deep_chat_model(folder: Path) -> Path:
    """Write the bundled model with a chat template and twenty more layers that change nothing: LoRA's are 16 to 23."""
    model, tokenizer = load_policy("data/tiny_coder")
    config = model.config.__class__.from_dict(model.config.to_dict() | {"num_hidden_layers": 24, "layer_types": None})
    deep = Qwen2ForCausalLM(config)
    missing = deep.load_state_dict(model.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        for name, weights in deep.named_parameters():
            if name in missing and name.endswith(("o_proj.weight", "down_proj.weight")):
                weights.zero_()
    deep.generation_config = model.generation_config
    tokenizer.chat_template = "{{ '' }}"  # the bundled model knows no chat
    save_policy(deep, tokenizer, folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_cells_run_with_an_adapter_and_group_sampling(tmp_path, monkeypatch):
    start = deep_chat_model(tmp_path / "model")
    course = tmp_path / "course"
    shutil.copytree(ROOT / "helpers", course / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (course / "data").mkdir()
    for name in ("tiny_coder", "measurements"):
        (course / "data" / name).symlink_to(ROOT / "data" / name)
    train, sets = load_sets("tiny")
    write_problems(train[:48] + sets["tiny"][:6], course / "data" / "tiny_problems.jsonl")
    copy = course / "notebooks" / PATH.name
    copy.parent.mkdir()
    source = PATH.read_text(encoding="utf-8")
    copy.write_text(source.replace(r"profile = \"tiny\"", r"profile = \"qwen-cpu\""), encoding="utf-8")
    for name, value in {"GRPO_MODEL": start, "GRPO_MAX_STEPS": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delitem(os.environ, "HF_HUB_OFFLINE", raising=False)
    notebook = execute(copy, tmp_path / "out")
    outputs = {one.id: one.outputs for one in notebook.cells if one.cell_type == "code"}
    assert not [out for shown in outputs.values() for out in shown if out.output_type == "error"]
    differing = outputs["train-5b"][0].text
    for changed in ("'learning_rate': 0.00015", "'per_device_train_batch_size': 48", "'max_steps': 2"):
        assert changed in differing
    run = tmp_path / "out" / PATH.stem
    result = json.loads((run / "result.json").read_text())
    assert (result["profile"], result["model"], list(result["held_out"])) == ("qwen-cpu", str(start), ["tiny"])
    assert result["held_out"]["tiny"]["after"]["problems"] == 6
    assert len(result["history"]) == 2 and result["history"][0]["grad_norm"] > 0
    assert (run / "solved.json").exists() and (run / "model" / "adapter_config.json").exists()
