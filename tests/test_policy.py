from itertools import chain

import pytest
import torch
from random_policy import arithmetic_problems, save_random_policy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)

from helpers import hub
from helpers.answers import function_ended
from helpers.policy import (
    PolicyError,
    convert_weights,
    end_token_ids,
    is_cut_off,
    load_config,
    load_policy,
    load_tokenizer,
    pad_completions,
    per_token_logps,
    sample_completion_ids,
    sample_completions,
    save_policy,
)
from helpers.problems import load_problems

PROMPTS = [problem.prompt for problem in arithmetic_problems()]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def policy(folder):
    """A random model that ends about every tenth completion early."""
    model, tokenizer = load_policy(folder)
    with torch.no_grad():  # a tied head scores tokens against the embedding: a copy of a common one becomes common
        weight = model.get_input_embeddings().weight
        weight[tokenizer.eos_token_id] = 2 * weight.abs().mean(0)
    return model, tokenizer


@pytest.fixture(scope="module")
def bundled():
    return load_policy("data/tiny_coder")


@pytest.fixture(scope="module")
def tiny_prompts():
    problems = load_problems("tiny")[::40][:9]
    return [problem.prompt for problem in problems] + ["def f(x):\n"]  # lengths that need padding, in no order


def greedy_one_by_one(model, tokenizer, prompt, length):
    """Greedy decoding without padding, batching or a cache."""
    ids, new = tokenizer(prompt)["input_ids"], []
    for _ in range(length):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    return new


def generated(model, tokenizer, prompts, length):
    """Greedy completions of transformers' own `generate`, one prompt at a time."""
    ends, completions = end_token_ids(model, tokenizer), []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        (row,) = model.generate(**inputs, do_sample=False, max_new_tokens=length, eos_token_id=ends)
        completions.append([row[inputs["input_ids"].shape[1] :].tolist()])
    return completions


def test_loads_float32_in_evaluation_mode_whatever_the_file_holds(policy, tmp_path):
    model, tokenizer = policy
    save_policy(model.to(torch.bfloat16), tokenizer, tmp_path)
    again, _ = load_policy(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert not again.training


def test_saved_policy_loads_with_plain_transformers_and_writes_the_same(policy, tmp_path):
    model, tokenizer = policy
    save_policy(model, tokenizer, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    expected = sample_completions(model, tokenizer, PROMPTS, max_completion_length=8)
    assert sample_completions(*plain, PROMPTS, max_completion_length=8) == expected


def test_loading_and_saving_draw_no_progress_bars(folder, tmp_path, capfd):
    save_policy(*load_policy(folder), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(PolicyError, match=r"There is no model folder .*absent\.$"):
        load_policy(tmp_path / "absent")


@pytest.mark.parametrize("name", ["data/no_such_model", "no_such_model", "./no/such"])
def test_a_missing_relative_folder_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_: pytest.fail("asked the loader"))
    with pytest.raises(PolicyError, match="There is no model folder"):
        load_policy(name)


QWEN = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


@pytest.mark.parametrize("cached", [True, False])
def test_a_hub_id_that_can_be_had_reaches_the_loader(cached, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(hub, "cached_folder", lambda model: tmp_path if cached else None)
    monkeypatch.setattr(hub, "obstacle", lambda model: None)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda source: asked.append(source) or 1 / 0)
    with pytest.raises(PolicyError, match=f"No causal language model could be loaded from {QWEN}"):
        load_policy(QWEN)
    # For a folder in the cache the loader does not ask the Hub, which without a network would take a minute.
    assert asked == [str(tmp_path) if cached else QWEN]


@pytest.mark.parametrize("load", [load_policy, load_tokenizer, load_config])
def test_a_hub_id_that_cannot_be_had_is_one_sentence_with_the_ways_out(load, monkeypatch):
    monkeypatch.setattr(hub, "cached_folder", lambda model: None)
    monkeypatch.setattr(hub, "obstacle", lambda model: "the hub cannot be reached")
    for loader in (AutoTokenizer, AutoConfig):
        monkeypatch.setattr(loader, "from_pretrained", lambda source: pytest.fail("asked the hub's library"))
    with pytest.raises(PolicyError, match=f"{QWEN} .*the hub cannot be reached.*GRPO_MODEL.*profile tiny") as caught:
        load(QWEN)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(PolicyError, match=r"contains no model: it has no config\.json\.$"):
        load_policy(tmp_path)


def test_a_broken_config_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PolicyError, match="No causal language model could be loaded") as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)


def test_greedy_in_padded_batches_is_greedy_one_by_one(policy):
    model, tokenizer = policy
    prompts = [*PROMPTS, PROMPTS[0] + PROMPTS[1], "x"]  # lengths that need padding, and an order that sorting changes
    sampled = sample_completion_ids(model, tokenizer, prompts, temperature=0, max_completion_length=12, batch_size=3)
    assert sampled == [[greedy_one_by_one(model, tokenizer, prompt, 12)] for prompt in prompts]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(1, 256), (1, 3), (1, 1), (4, 8), (3, 7), (2, 1)])
def test_greedy_tokens_are_those_of_generate(bundled, tiny_prompts, num_samples, batch_size):
    expected = generated(*bundled, tiny_prompts, 40)
    lengths = {len(ids) for (ids,) in expected}
    assert len(lengths) > 3  # rows leave the batch at different times
    settings = {"temperature": 0, "max_completion_length": 40}
    sampled = sample_completion_ids(*bundled, tiny_prompts, num_samples=num_samples, batch_size=batch_size, **settings)
    assert sampled == [group * num_samples for group in expected]


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "initializer_range": 0.2}
KINDS = {
    # Learned positions: a padded prompt must still begin at position 0.
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}),
    "sliding window": (MistralForCausalLM, MistralConfig, SIZES | {"sliding_window": 8}),
    # What these remember of a row is not, or not only, keys and values.
    "mamba": (MambaForCausalLM, MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}),
    "hybrid": (Lfm2ForCausalLM, Lfm2Config, SIZES | {"layer_types": ["conv", "full_attention"]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_model_write_what_generate_writes(policy, kind):
    _, tokenizer = policy
    torch.manual_seed(0)
    model, config, sizes = KINDS[kind]
    end = tokenizer.eos_token_id
    model = model(
        config(vocab_size=len(tokenizer), eos_token_id=end, pad_token_id=end, bos_token_id=end, **sizes)
    ).eval()
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 8))
    settings = {"temperature": 0, "max_completion_length": 20, "num_samples": 2, "batch_size": 8}
    prompts = [*PROMPTS, "x", "a + b"]
    expected = generated(model, tokenizer, prompts, 20)
    assert len({len(ids) for (ids,) in expected}) > 3  # rows leave the batch at different times
    assert sample_completion_ids(model, tokenizer, prompts, **settings) == [group * 2 for group in expected]


def test_a_model_without_a_cache_is_refused_in_one_sentence(policy):
    _, tokenizer = policy
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(PolicyError, match=r"^Models of the class OpenAIGPTLMHeadModel keep no cache.*\.$"):
        sample_completion_ids(model, tokenizer, PROMPTS, max_completion_length=2)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_first_and_second_tokens_follow_the_models_distribution(policy, temperature):
    """Rows that end in between are dropped; those that are left must keep their own cache."""
    model, tokenizer = policy
    draws, first_ids = 6000, tokenizer(PROMPTS[:2])["input_ids"]
    sampled = sample_completion_ids(
        model, tokenizer, PROMPTS[:2], num_samples=draws, temperature=temperature, max_completion_length=2, seed=1
    )
    for ids, group in zip(first_ids, sampled, strict=True):
        first = torch.tensor([sample[0] for sample in group])
        assert_close(first, probabilities(model, ids, temperature))
        common = int(torch.bincount(first[first != tokenizer.eos_token_id]).argmax())
        second = torch.tensor([sample[1] for sample in group if sample[0] == common])
        assert len(second) > 200
        assert_close(second, probabilities(model, [*ids, common], temperature))


def probabilities(model, ids, temperature):
    with torch.no_grad():
        return torch.softmax(model(torch.tensor([ids])).logits[0, -1] / temperature, -1)


def assert_close(tokens, expected):
    """Every token's frequency lies within 4.5 standard errors of its probability (plus one count)."""
    observed = torch.bincount(tokens, minlength=len(expected)) / len(tokens)
    tolerance = 4.5 * (expected * (1 - expected) / len(tokens)).sqrt() + 1 / len(tokens)
    assert ((observed - expected).abs() < tolerance).all()


def test_completions_end_with_their_end_token_or_at_the_limit(policy):
    model, tokenizer = policy
    sampled = sample_completion_ids(model, tokenizer, PROMPTS, num_samples=20, max_completion_length=12)
    flat = [sample for group in sampled for sample in group]
    end = tokenizer.eos_token_id
    ended = [sample for sample in flat if end in sample]
    assert [len(group) for group in sampled] == [20] * len(PROMPTS)
    assert 0 < len(ended) < len(flat)
    assert all(sample.index(end) == len(sample) - 1 for sample in ended)
    assert all(len(sample) == 12 for sample in flat if end not in sample)
    assert [is_cut_off(model, tokenizer, sample, 12) for sample in flat] == [end not in sample for sample in flat]
    texts = sample_completions(model, tokenizer, PROMPTS, num_samples=20, max_completion_length=12)
    assert texts == [tokenizer.batch_decode(group, skip_special_tokens=True) for group in sampled]
    assert not any(tokenizer.eos_token in text for group in texts for text in group)


def test_every_end_token_that_the_model_names_ends_a_completion(policy):
    model, tokenizer = policy
    settings = {"num_samples": 20, "max_completion_length": 12, "seed": 2}
    tokens = [t for group in sample_completion_ids(model, tokenizer, PROMPTS, **settings) for s in group for t in s]
    other = max(set(tokens) - {tokenizer.eos_token_id}, key=tokens.count)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    flat = [s for group in sample_completion_ids(model, tokenizer, PROMPTS, **settings) for s in group]
    assert any(s[-1] == other for s in flat)
    assert not any(set(s[:-1]) & set(end_token_ids(model, tokenizer)) for s in flat)


def test_a_completion_ends_where_the_rule_says_so_and_not_before(policy):
    model, tokenizer = policy
    settings = {"num_samples": 5, "max_completion_length": 12, "seed": 4, "batch_size": 10}
    free = sample_completion_ids(model, tokenizer, PROMPTS, **settings)

    def rule(text):
        return len(text) > 12

    ruled = sample_completion_ids(model, tokenizer, PROMPTS, ends=rule, **settings)
    shorter = 0
    for long, short in zip(chain(*free), chain(*ruled), strict=True):
        assert long[: len(short)] == short  # no row's draws depend on when other rows of its batch end
        assert not rule(tokenizer.decode(short[:-1]))
        assert rule(tokenizer.decode(short)) or len(short) == len(long)
        shorter += len(short) < len(long)
    assert shorter > 10


def test_a_completion_that_the_rule_ended_at_the_limit_is_not_cut_off(bundled):
    model, tokenizer = bundled
    ids = tokenizer("    return 1\nx")["input_ids"]
    assert not is_cut_off(model, tokenizer, ids, len(ids), function_ended)
    assert is_cut_off(model, tokenizer, ids, len(ids))
    assert is_cut_off(model, tokenizer, ids[:-1], len(ids) - 1, function_ended)
    assert not is_cut_off(model, tokenizer, ids, len(ids) + 1)


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("", False),
        ("    return a", False),
        ("    return a\n", False),
        ("    return a\n\n", False),
        ("    return a\n\n    # more", False),
        ("    return a\n\ndef", True),
        ("    return a\n```", True),
        ("    return a\n\n# Test", True),
        ("\treturn a\nx", True),
        ("\n\n    return a\nx", True),
        ("return a\n", False),
        ("def add(a, b):\n    return a + b\n", False),  # the whole function again: its first line is not its end
        ("def add(a, b):\n    return a + b\nprint", True),
        ("    return [\n        a,\n]\n", False),
        ("    return [\n        a,\n]\nx", True),
        ('    text = """\nat the margin\n"""\n    return text', False),
        ('    text = """\nat the margin\n"""\n    return text\nx', True),
        ('    """One line."""\nx', True),
    ],
)
def test_where_a_function_ends(text, ended):
    assert function_ended(text) == ended


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_cpu_samples_without_autocast(policy, precision):
    model, tokenizer = policy
    seen = set()
    hook = model.register_forward_pre_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    sample_completion_ids(model, tokenizer, PROMPTS[:2], max_completion_length=2, precision=precision)
    hook.remove()
    assert seen == {False}


def test_a_frozen_base_in_bfloat16_writes_what_generate_writes(tiny_prompts):
    model, tokenizer = load_policy("data/tiny_coder")
    convert_weights(model, torch.bfloat16)
    settings = {"temperature": 0, "max_completion_length": 40, "batch_size": 1}  # the batch changes the rounding
    sampled = sample_completion_ids(model, tokenizer, tiny_prompts, **settings)
    assert sampled == generated(model, tokenizer, tiny_prompts, 40)


def test_each_prompt_is_read_once_for_its_group_and_ended_rows_are_not_computed(policy):
    model, tokenizer = policy
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    settings = {"num_samples": 5, "max_completion_length": 12, "batch_size": 15}
    sampled = sample_completion_ids(model, tokenizer, PROMPTS[:3], **settings)
    hook.remove()
    assert shapes[0][0] == 3
    # The last token of a completion is never read.
    assert sum(rows for rows, _ in shapes[1:]) == sum(len(sample) - 1 for group in sampled for sample in group)


def test_progress_counts_the_completions(policy):
    counted = []
    sample_completion_ids(
        *policy, PROMPTS, num_samples=3, max_completion_length=2, batch_size=8, progress=counted.append
    )
    assert counted == [8, 8, 2]


def test_no_prompts_give_no_completions(policy):
    assert sample_completion_ids(*policy, [], max_completion_length=4) == []


def test_the_checkpoints_own_sampling_settings_are_not_used(policy):
    model, tokenizer = policy
    settings = {"num_samples": 4, "max_completion_length": 10, "seed": 3}
    expected = sample_completions(model, tokenizer, PROMPTS, **settings)
    model.generation_config.update(top_p=0.1, top_k=1, repetition_penalty=5.0, temperature=0.1, do_sample=True)
    assert sample_completions(model, tokenizer, PROMPTS, **settings) == expected
    greedy = sample_completions(model, tokenizer, PROMPTS[:1], temperature=0, max_completion_length=10)
    ids = greedy_one_by_one(model, tokenizer, PROMPTS[0], 10)
    assert tokenizer.decode(ids, skip_special_tokens=True) == greedy[0][0]


def test_a_seed_fixes_the_samples_and_the_global_stream_stays(policy):
    model, tokenizer = policy
    settings = {"num_samples": 2, "max_completion_length": 10}
    before = torch.get_rng_state()
    first = sample_completions(model, tokenizer, PROMPTS, seed=5, **settings)
    torch.randn(7)
    assert sample_completions(model, tokenizer, PROMPTS, seed=5, **settings) == first
    assert sample_completions(model, tokenizer, PROMPTS, seed=6, **settings) != first
    assert any(len(set(group)) == 2 for group in first)  # the samples of a group are drawn apart
    torch.set_rng_state(before)
    sample_completions(model, tokenizer, PROMPTS, seed=5, **settings)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_uses_no_dropout_and_puts_training_mode_back(policy):
    model, tokenizer = policy
    settings = {"temperature": 0, "max_completion_length": 10}
    expected = sample_completions(model, tokenizer, PROMPTS, **settings)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    assert sample_completions(model, tokenizer, PROMPTS, **settings) == expected
    assert model.training


def test_the_model_names_the_tokenizers_end_and_padding_tokens(folder, tmp_path):
    model, tokenizer = load_policy(folder)
    tokenizer.pad_token = None
    model.config.eos_token_id = model.generation_config.eos_token_id = 7
    save_policy(model, tokenizer, tmp_path)
    model, tokenizer = load_policy(tmp_path)
    end = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id == end
    assert model.config.eos_token_id == end
    assert model.generation_config.eos_token_id == [end, 7]


def test_the_tokenizers_end_token_comes_first_among_those_the_model_names(policy):
    model, tokenizer = policy
    model.generation_config.eos_token_id = [7, tokenizer.eos_token_id]
    assert end_token_ids(model, tokenizer) == [tokenizer.eos_token_id, 7]
    model.generation_config.eos_token_id = None
    assert end_token_ids(model, tokenizer) == [tokenizer.eos_token_id]


def test_chat_messages_go_through_the_template(policy):
    model, tokenizer = policy
    tokenizer.chat_template = TEMPLATE
    chat = [[{"role": "user", "content": "add"}]]
    settings = {"temperature": 0, "max_completion_length": 6}
    written_out = sample_completions(model, tokenizer, ["user: add\n"], **settings)
    assert sample_completions(model, tokenizer, chat, **settings) == written_out


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"num_samples": 0}, {"max_completion_length": 0}])
def test_impossible_sampling_is_refused(policy, wrong):
    with pytest.raises(ValueError, match="at least"):
        sample_completions(*policy, PROMPTS, **{"max_completion_length": 4} | wrong)


def test_prompts_are_padded_left_and_completions_right():
    batch = pad_completions([[5, 6, 7], [8]], [[1, 2], [3, 4, 9]], pad_token_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 2, 0], [0, 0, 8, 3, 4, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert batch.completion_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_the_end_token_is_in_the_mask_even_where_it_is_the_padding_token():
    end = 0
    batch = pad_completions([[5, end], [6]], [[7, end], [8, 9, 7, end]], pad_token_id=end)
    assert batch.completion_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_in_a_padded_batch_are_those_of_each_sequence_alone(policy, temperature):
    model, tokenizer = policy
    prompts = tokenizer([*PROMPTS[:3], "x"])["input_ids"]
    completions = [[40, 41, 0], [50, 0], [60, 61, 62, 63], [7]]
    batch = pad_completions(prompts, completions, tokenizer.pad_token_id)
    logps, entropies = per_token_logps(model, batch, temperature)
    assert logps.shape == entropies.shape == batch.completion_mask.shape == (4, 4)
    assert logps.requires_grad and not entropies.requires_grad
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
        expected = torch.log_softmax(logits, -1)
        chosen = expected[range(len(completion)), completion]
        assert torch.allclose(logps[row, : len(completion)], chosen, atol=1e-5)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        assert torch.allclose(entropies[row, : len(completion)], entropy, atol=1e-5)
