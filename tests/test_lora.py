import json

import pytest
import torch

from helpers import lora
from helpers.hub import is_adapter
from helpers.lora import (
    add_adapter,
    check_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from helpers.policy import convert_weights, load_policy, sample_completion_ids
from helpers.problems import load_problems
from helpers.runtime import CourseError

PROMPTS = [problem.prompt for problem in load_problems("tiny")[::60]][:8]
GREEDY = {"temperature": 0, "max_completion_length": 40, "batch_size": 4}


@pytest.fixture
def adapted():
    """The bundled model with an adapter that a few steps of training have moved."""
    model, tokenizer = load_policy("data/tiny_coder")
    model = add_adapter(model, 4)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    ids = tokenizer(PROMPTS[0] + "    return None\n", return_tensors="pt")["input_ids"]
    for _ in range(10):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def test_the_base_is_frozen_in_bfloat16_and_the_adapter_is_float32():
    model, _ = load_policy("data/tiny_coder")
    adapted = add_adapter(model, 4)
    kinds = {("lora_" in name, weight.dtype, weight.requires_grad) for name, weight in adapted.named_parameters()}
    assert kinds == {(False, torch.bfloat16, False), (True, torch.float32, True)}
    assert {buffer.dtype for buffer in adapted.buffers()} == {torch.float32}  # the frequencies of rotary positions
    assert {weight.shape[0] for name, weight in adapted.named_parameters() if "lora_A" in name} == {4}


def test_the_output_layer_of_a_frozen_base_never_reads_a_slice(tmp_path, adapted):
    # torch would copy the output layer's frozen weights for each row of a slice.
    model, tokenizer = adapted
    save_adapter(model, tokenizer, tmp_path)
    for one in (model, load_adapter(tmp_path)[0]):
        read = []
        one.get_output_embeddings().register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
        sample_completion_ids(one, tokenizer, PROMPTS, **GREEDY)
        assert len(read) > 2 and all(tensor.is_contiguous() for tensor in read)


def test_all_linear_layers_but_the_output_get_an_adapter_or_those_of_the_chosen_layers():
    def adapters(layers):
        model = add_adapter(load_policy("data/tiny_coder")[0], 2, layers)
        return {
            name.split(".lora_A")[0].split(".layers.")[1] for name, _ in model.named_parameters() if "lora_A" in name
        }

    assert len(adapters(None)) == 4 * 7
    upper = adapters([2, 3])
    assert len(upper) == 2 * 7
    assert {name.split(".")[0] for name in upper} == {"2", "3"}
    assert {name.rpartition(".")[2] for name in upper} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip


def test_a_new_adapter_changes_nothing_and_its_seed_fixes_it():
    model, tokenizer = load_policy("data/tiny_coder")
    convert_weights(model, torch.bfloat16)
    expected = sample_completion_ids(model, tokenizer, PROMPTS, **GREEDY)
    state = torch.get_rng_state()
    adapted = add_adapter(model, 4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert sample_completion_ids(adapted, tokenizer, PROMPTS, **GREEDY) == expected
    first = [weight for name, weight in adapted.named_parameters() if "lora_A" in name]
    for seed, same in ((3, True), (4, False)):
        again = add_adapter(load_policy("data/tiny_coder")[0], 4, seed=seed)
        second = [weight for name, weight in again.named_parameters() if "lora_A" in name]
        assert all(map(torch.equal, first, second)) == same


@pytest.mark.parametrize(("rank", "layers"), [(0, None), (4, [4]), (4, [-1])])
def test_an_impossible_adapter_is_refused(rank, layers):
    with pytest.raises(CourseError, match="between 0 and 3"):
        add_adapter(load_policy("data/tiny_coder")[0], rank, layers)


def test_a_model_with_an_adapter_writes_what_generate_writes(adapted):
    model, tokenizer = adapted
    sampled = sample_completion_ids(model, tokenizer, PROMPTS, **GREEDY | {"batch_size": 1})
    for prompt, (ids,) in zip(PROMPTS, sampled, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        (row,) = model.generate(**inputs, do_sample=False, max_new_tokens=40)
        assert ids == row[inputs["input_ids"].shape[1] :].tolist()
    with model.disable_adapter():
        assert sample_completion_ids(model, tokenizer, PROMPTS, **GREEDY | {"batch_size": 1}) != sampled


def test_a_saved_adapter_is_small_and_writes_the_same_when_loaded_again(adapted, tmp_path):
    model, tokenizer = adapted
    save_adapter(model, tokenizer, tmp_path)
    assert is_adapter(tmp_path) and not is_adapter("data/tiny_coder")
    assert not list(tmp_path.glob("model*.safetensors"))
    again, _ = load_adapter(tmp_path, dtype=torch.bfloat16)
    assert sample_completion_ids(again, tokenizer, PROMPTS, **GREEDY) == sample_completion_ids(
        model, tokenizer, PROMPTS, **GREEDY
    )
    check_adapter(model, tokenizer, tmp_path, PROMPTS, max_completion_length=40)


def test_an_adapter_that_was_saved_too_early_is_found_out(adapted, tmp_path):
    model, tokenizer = adapted
    save_adapter(add_adapter(load_policy("data/tiny_coder")[0], 4), tokenizer, tmp_path)
    with pytest.raises(CourseError, match="does not write what the trained model writes"):
        check_adapter(model, tokenizer, tmp_path, PROMPTS, max_completion_length=40)


def test_the_merged_model_is_float32_and_writes_what_the_adapter_writes(adapted, tmp_path):
    model, tokenizer = adapted
    save_adapter(model, tokenizer, tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", PROMPTS)
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "float32"
    assert not is_adapter(tmp_path / "merged")
    merged, _ = load_policy(tmp_path / "merged")
    on_float32, _ = load_adapter(tmp_path / "adapter", dtype=torch.float32)
    expected = sample_completion_ids(on_float32, tokenizer, PROMPTS, **GREEDY)
    assert sample_completion_ids(merged, tokenizer, PROMPTS, **GREEDY) == expected
    untrained, _ = load_policy("data/tiny_coder")
    assert sample_completion_ids(untrained, tokenizer, PROMPTS, **GREEDY) != expected


@pytest.mark.parametrize("fault", ["skipped", "rounded"])
def test_a_merge_that_loses_the_update_is_found_out(adapted, tmp_path, monkeypatch, fault):
    model, tokenizer = adapted
    for name, weight in model.named_parameters():
        if "lora_B" in name and fault == "rounded":
            weight.data *= 0.002  # an update of the size of bfloat16's spacing
    save_adapter(model, tokenizer, tmp_path / "adapter")

    def save(merged, tokenizer, folder):
        merged = load_policy("data/tiny_coder")[0] if fault == "skipped" else merged.to(torch.bfloat16)
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    monkeypatch.setattr(lora, "save_policy", save)
    with pytest.raises(CourseError, match="the merge has lost the update"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", PROMPTS)


def test_an_adapter_that_learned_nothing_is_not_passed_off_as_trained(tmp_path):
    model, tokenizer = load_policy("data/tiny_coder")
    save_adapter(add_adapter(model, 4), tokenizer, tmp_path / "adapter")
    with pytest.raises(CourseError, match="changes nothing"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", PROMPTS)
