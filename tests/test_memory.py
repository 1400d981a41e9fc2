"""Memory: exact counts against published sizes, estimates against what autograd and generation really keep."""

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_policies import save_chat_policy
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from helpers.lora import add_adapter
from helpers.memory import (
    GIB,
    MemoryNeededError,
    TrainingMemory,
    activations,
    check_memory,
    count_parameters,
    device_memory,
    full_logits,
    kv_cache,
    lora_parameters,
    model_states,
    peak_memory,
    plan_memory,
    training_memory,
)
from helpers.policy import load_config, load_tokenizer
from helpers.problems import load_problems, prompt_text
from helpers.profiles import profile_settings

# From the config.json of Qwen2.5 and Qwen2.5-Coder of these sizes (arXiv 2409.12186, table 1).
SHAPES = {
    "0.5B": (151_936, 896, 4864, 24, 14, 2, True),
    "1.5B": (151_936, 1536, 8960, 28, 12, 2, True),
    "7B": (152_064, 3584, 18_944, 28, 28, 4, False),
}
COUNTS = {"0.5B": 494_032_768, "1.5B": 1_543_714_304, "7B": 7_615_616_512}
LORA = {"0.5B": 8.80e6, "1.5B": 18.46e6, "7B": 40.37e6}
KV_HALF = {"0.5B": 12_288, "1.5B": 28_672, "7B": 57_344}


def qwen(size):
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    values = dict(zip((*names, "num_key_value_heads", "tie_word_embeddings"), SHAPES[size], strict=True))
    return Qwen2Config(**values)


def small(layers=4):
    return Qwen2Config(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


@pytest.mark.parametrize("size", SHAPES)
def test_counts_from_the_architecture_alone(size):
    assert count_parameters(qwen(size)) == COUNTS[size]
    assert lora_parameters(qwen(size), 16) == pytest.approx(LORA[size], rel=1e-3)
    assert kv_cache(qwen(size), 1, number_bytes=2) == KV_HALF[size]


@pytest.mark.parametrize(
    ("models", "each"),
    [
        ({"critic": True, "reward_model": True, "reference": True}, 36),  # PPO with a learned reward
        ({"reward_model": True, "reference": True}, 20),  # GRPO with a learned reward and a KL penalty
        ({"reference": True}, 18),  # GRPO with a verifier and a KL penalty
        ({}, 16),  # GRPO with a verifier, beta 0
        ({"reference": True, "frozen_bytes": 4}, 20),  # as TRL loads the reference
    ],
)
def test_bytes_per_weight(models, each):
    assert sum(model_states(1000, **models).values()) == 1000 * each


@pytest.mark.parametrize(("size", "gigabytes"), [("0.5B", 1.13), ("1.5B", 3.38), ("7B", 15.9)])
def test_lora_trains_an_adapter_on_a_frozen_base_that_is_its_own_reference(size, gigabytes):
    adapter = lora_parameters(qwen(size), 16)
    states = model_states(COUNTS[size], adapter=adapter)
    assert sum(states.values()) / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert model_states(COUNTS[size], adapter=adapter, reference=True) == states


@pytest.mark.parametrize("layers", [None, [0], [1, 3]])
def test_an_adapter_has_the_parameters_that_peft_trains(layers):
    adapted = add_adapter(Qwen2ForCausalLM(small()), 3, layers)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert lora_parameters(small(), 3, layers) == trained


@pytest.mark.parametrize(("base", "number"), [("bf16", 2), ("fp32", 4)])
def test_a_run_with_an_adapter_keeps_gradients_and_optimizer_for_the_adapter_alone(base, number):
    settings = replace(profile_settings("qwen-cpu"), lora_base=base)
    adapter = lora_parameters(qwen("0.5B"), 16, range(16, 24))
    assert adapter == lora_parameters(qwen("0.5B"), 16) / 3
    memory = training_memory(settings, qwen("0.5B"), prompt_tokens=442)
    states = {name: size for part in (memory.lasting, memory.learning) for name, size in part.items()}
    kept = sum(states[name] for name in ("weights", "gradients", "optimizer"))
    assert kept == number * COUNTS["0.5B"] + 16 * adapter
    assert "half-precision copies" not in {**memory.sampling, **memory.learning}
    rows, tokens = 48, 442 + 256  # of an evaluation, whose completions are longer than in training
    assert memory.sampling["KV cache"] == rows * tokens * KV_HALF["0.5B"] * number / 2
    assert memory.peak < training_memory(replace(settings, lora_rank=0), qwen("0.5B"), 442).peak


def test_logits_of_a_whole_batch_are_more_than_the_model():
    assert full_logits(qwen("0.5B"), 8 * 256, copies=1) / GIB == pytest.approx(1.16, abs=0.005)
    assert full_logits(qwen("0.5B"), 64 * 512, copies=1) / GIB == pytest.approx(18.6, abs=0.1)
    assert full_logits(qwen("0.5B"), 8 * 512) > model_states(COUNTS["0.5B"])["weights"]


def kept_for_backward(config, rows, length, half, checkpointing):
    """Bytes that autograd keeps in one forward pass as TRL makes it, without the weights and their copies."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    matrices = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    kept, sizes = [], {}

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tuple(tensor.shape) not in matrices:
            kept.append(tensor)  # or its place would be given to the next one
            sizes[place] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, 500, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    return sum(sizes.values())


@pytest.mark.parametrize("half", [True, False])
def test_activations_are_what_autograd_keeps(half):
    rows, length = 3, 50
    deep, shallow = (kept_for_backward(small(layers), rows, length, half, False) for layers in (6, 2))
    expected = activations(small(4), rows * length, length, half, checkpointing=False)
    assert deep - shallow == pytest.approx(expected, rel=0.01)


def test_checkpointing_keeps_one_residual_stream_per_layer():
    rows, length = 3, 50
    deep, shallow = (kept_for_backward(small(layers), rows, length, True, True) for layers in (6, 2))
    computed = [activations(small(layers), rows * length, length, True, checkpointing=True) for layers in (6, 2)]
    assert deep - shallow == pytest.approx(computed[0] - computed[1], rel=0.01)
    assert computed[1] > shallow  # one layer more, computed again in backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_stay_float32_under_autocast(dtype):
    model = Qwen2ForCausalLM(small())
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        cache = model(input_ids=torch.randint(0, 500, (2, 9)), use_cache=True).past_key_values
    kept = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert kept == kv_cache(small(), 2 * 9)


@pytest.mark.parametrize(("name", "gib"), [("qwen", 14.56), ("qwen-full", 22.06)])  # what a T4 and an L4 have
def test_qwen_fits_into_the_gpu_it_is_sized_for(name, gib):
    settings = profile_settings(name)
    memory = training_memory(settings, qwen("0.5B"), prompt_tokens=442)  # the longest, in Qwen's tokens
    check_memory(memory, int(gib * GIB))
    states = {name: size for part in (memory.lasting, memory.learning) for name, size in part.items()}
    assert sum(states[name] for name in ("weights", "gradients", "optimizer")) == 16 * COUNTS["0.5B"]
    assert memory.peak > 16 * COUNTS["0.5B"]


def test_a_reference_is_counted_if_there_is_a_kl_penalty():
    settings = profile_settings("qwen")
    with_reference = training_memory(replace(settings, beta=0.04), qwen("0.5B"), 442)
    without = training_memory(settings, qwen("0.5B"), 442)
    assert with_reference.peak - without.peak == with_reference.lasting["reference"] == 4 * COUNTS["0.5B"]


@pytest.mark.parametrize(
    ("changes", "size", "gib", "way_out"),
    [
        ({}, "7B", 80, r"weights, gradients and optimizer alone take 113\.5 GiB; take a smaller model"),
        ({"activation_checkpointing": False}, "0.5B", 14, "learning takes the most; set activation_checkpointing=True"),
        ({"per_device_train_batch_size": 64}, "0.5B", 14, "learning .* or lower per_device_train_batch_size"),
        ({"per_device_eval_batch_size": 512}, "0.5B", 14, "sampling takes the most; .* per_device_eval_batch_size"),
        ({"prompts_per_step": 64}, "0.5B", 14, "sampling takes the most; lower prompts_per_step"),
    ],
)
def test_a_run_that_does_not_fit_names_the_settings_to_change(changes, size, gib, way_out):
    memory = training_memory(replace(profile_settings("qwen"), **changes), qwen(size), 442)
    with pytest.raises(MemoryNeededError, match=rf"^This run needs [\d.]+ GiB, .*{gib}\.0 GiB are usable: {way_out}"):
        check_memory(memory, gib * GIB)


def test_the_peak_is_the_worse_of_sampling_and_learning():
    assert TrainingMemory({"weights": 5}, {"KV cache": 7}, {"gradients": 2, "logits": 1}).peak == 12
    assert TrainingMemory({"weights": 5}, {"KV cache": 1}, {"gradients": 2, "logits": 1}).peak == 8


def test_a_plan_reads_the_folder_and_the_longest_prompt(tmp_path):
    folder = save_chat_policy(tmp_path)
    settings = replace(profile_settings("qwen"), model=str(folder), device="cpu", precision="fp32")
    problems = load_problems("humaneval")
    tokenizer = load_tokenizer(folder)
    lengths = {}
    for asked, mode in ((None, "chat"), ("prefill", "prefill")):
        texts = [prompt_text(problem, tokenizer, mode) for problem in problems]
        lengths[mode] = max(len(tokenizer(text)["input_ids"]) for text in texts)
        expected = training_memory(settings, load_config(folder), lengths[mode])
        assert plan_memory(replace(settings, prompt=asked), problems) == expected
    assert lengths["prefill"] < lengths["chat"]
    assert device_memory("cpu") > GIB


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_the_peak_of_a_process_is_the_one_that_the_system_knows():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    assert peak_memory("cpu") == pytest.approx(1024 * int(line.split()[1]), rel=0.02)


def test_a_plan_that_does_not_fit_stops_the_run(tmp_path, monkeypatch):
    settings = replace(profile_settings("qwen"), model=str(save_chat_policy(tmp_path)), device="cpu")
    monkeypatch.setattr("helpers.memory.device_memory", lambda device: 1_000_000)
    with pytest.raises(MemoryNeededError):
        plan_memory(settings, load_problems("humaneval")[:3])


FREED = """
import sys, torch
from helpers.memory import return_freed_memory
from pathlib import Path
if sys.argv[1] == "return":
    return_freed_memory()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
del (first := [torch.ones(6 << 20)])[:]  # From here on, glibc keeps freed blocks of this size.
before, small = resident(), []
large = []
for _ in range(50):
    large.append(torch.ones(1 << 20))
    small.append(torch.ones(1 << 15))
del large
print((resident() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_freed_memory_goes_back_to_the_system(root: Path):
    kept, returned = (
        int(subprocess.check_output([sys.executable, "-c", FREED, mode], cwd=root, timeout=120))
        for mode in ("keep", "return")
    )
    assert kept > 150 and returned < 20, "MiB of 200 that were freed"
