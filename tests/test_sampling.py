import pytest
import torch
from random_policy import arithmetic_problems, save_random_policy
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from helpers.lora import convert_weights
from helpers.policy import end_token_ids, load_policy, sample_completion_ids
from helpers.problems import load_problems
from helpers.sampling import function_ended, is_cut_off, sample_group_ids

PROMPTS = [problem.prompt for problem in arithmetic_problems()]


@pytest.fixture(scope="module")
def bundled():
    return load_policy("data/tiny_coder")


@pytest.fixture(scope="module")
def tiny_prompts():
    problems = load_problems("tiny")[::40][:9]
    return [problem.prompt for problem in problems] + ["def f(x):\n"]  # lengths that need padding, in no order


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


@pytest.mark.parametrize(("num_samples", "batch_size"), [(1, 256), (1, 3), (1, 1), (4, 8), (3, 7), (2, 1)])
def test_greedy_tokens_are_those_of_generate(bundled, tiny_prompts, num_samples, batch_size):
    settings = {"temperature": 0, "max_completion_length": 40}
    expected = sample_completion_ids(*bundled, tiny_prompts, **settings)
    lengths = {len(ids) for (ids,) in expected}
    assert len(lengths) > 3  # rows leave the batch at different times
    sampled = sample_group_ids(*bundled, tiny_prompts, num_samples=num_samples, batch_size=batch_size, **settings)
    assert sampled == [group * num_samples for group in expected]


@pytest.mark.parametrize("kind", ["gpt2", "sliding window"])
def test_other_kinds_of_model_write_what_generate_writes(policy, kind):
    _, tokenizer = policy
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0}
    if kind == "gpt2":  # learned positions: a padded prompt must still begin at position 0
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, initializer_range=0.2, **sizes))
    else:
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = MistralConfig(**shape, num_key_value_heads=1, sliding_window=8, initializer_range=0.2, **sizes)
        model = MistralForCausalLM(config)
    settings = {"temperature": 0, "max_completion_length": 12}
    expected = sample_completion_ids(model.eval(), tokenizer, [*PROMPTS, "x"], **settings)
    sampled = sample_group_ids(model, tokenizer, [*PROMPTS, "x"], num_samples=2, batch_size=6, **settings)
    assert sampled == [group * 2 for group in expected]


def test_a_recurrent_model_is_sampled_by_generate_and_keeps_the_rule(policy):
    _, tokenizer = policy
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0}
    model = MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, initializer_range=0.2, **sizes)).eval()
    settings = {"temperature": 0, "max_completion_length": 12, "batch_size": 1}
    free = sample_group_ids(model, tokenizer, PROMPTS, num_samples=2, **settings)
    assert free == [group * 2 for group in sample_completion_ids(model, tokenizer, PROMPTS, **settings)]
    ruled = sample_group_ids(model, tokenizer, PROMPTS, ends=lambda text: len(text) > 8, **settings)
    for (ids,), (long, _) in zip(ruled, free, strict=True):
        assert ids == long[: len(ids)] and len(tokenizer.decode(ids[:-1])) <= 8 < len(tokenizer.decode(ids))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_first_and_second_tokens_follow_the_models_distribution(policy, temperature):
    """Rows that end in between are dropped; those that are left must keep their own cache."""
    model, tokenizer = policy
    draws, first_ids = 6000, tokenizer(PROMPTS[:2])["input_ids"]
    sampled = sample_group_ids(
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


def test_a_seed_fixes_the_samples_and_the_global_stream_stays(policy):
    settings = {"num_samples": 3, "max_completion_length": 10}
    before = torch.get_rng_state()
    first = sample_group_ids(*policy, PROMPTS, seed=5, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(7)
    assert sample_group_ids(*policy, PROMPTS, seed=5, **settings) == first
    assert sample_group_ids(*policy, PROMPTS, seed=6, **settings) != first
    assert len({tuple(sample) for sample in first[0]}) > 1  # the samples of a group are drawn apart


def test_completions_end_with_their_end_token_or_at_the_limit(policy):
    model, tokenizer = policy
    sampled = sample_group_ids(model, tokenizer, PROMPTS, num_samples=20, max_completion_length=12)
    flat = [sample for group in sampled for sample in group]
    end = tokenizer.eos_token_id
    ended = [sample for sample in flat if end in sample]
    assert [len(group) for group in sampled] == [20] * len(PROMPTS)
    assert 0 < len(ended) < len(flat)
    assert all(sample.index(end) == len(sample) - 1 for sample in ended)
    assert all(len(sample) == 12 for sample in flat if end not in sample)
    assert [is_cut_off(model, tokenizer, sample, 12) for sample in flat] == [end not in sample for sample in flat]


def test_every_end_token_that_the_model_names_ends_a_completion(policy):
    model, tokenizer = policy
    settings = {"num_samples": 20, "max_completion_length": 12, "seed": 2}
    flat = [s for group in sample_group_ids(model, tokenizer, PROMPTS, **settings) for s in group]
    other = max(set(sum(flat, [])) - {tokenizer.eos_token_id}, key=sum(flat, []).count)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    flat = [s for group in sample_group_ids(model, tokenizer, PROMPTS, **settings) for s in group]
    assert any(s[-1] == other for s in flat)
    assert not any(set(s[:-1]) & set(end_token_ids(model, tokenizer)) for s in flat)


def test_a_completion_ends_where_the_rule_says_so_and_not_before(policy):
    model, tokenizer = policy
    settings = {"num_samples": 5, "max_completion_length": 12, "seed": 4, "batch_size": 10}
    free = sample_group_ids(model, tokenizer, PROMPTS, **settings)

    def rule(text):
        return len(text) > 12

    ruled = sample_group_ids(model, tokenizer, PROMPTS, ends=rule, **settings)
    shorter = 0
    for long, short in zip(sum(free, []), sum(ruled, []), strict=True):
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


def test_sampling_uses_no_dropout_and_puts_training_mode_back(policy):
    model, tokenizer = policy
    settings = {"temperature": 0, "max_completion_length": 10}
    expected = sample_group_ids(model, tokenizer, PROMPTS, **settings)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    assert sample_group_ids(model, tokenizer, PROMPTS, **settings) == expected
    assert model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_cpu_samples_without_autocast(policy, precision):
    model, tokenizer = policy
    seen = set()
    hook = model.register_forward_pre_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    sample_group_ids(model, tokenizer, PROMPTS[:2], max_completion_length=2, precision=precision)
    hook.remove()
    assert seen == {False}


def test_a_frozen_base_in_bfloat16_writes_what_generate_writes(bundled, tiny_prompts):
    model, tokenizer = load_policy("data/tiny_coder")
    convert_weights(model, torch.bfloat16)
    settings = {
        "temperature": 0,
        "max_completion_length": 40,
        "batch_size": 1,
    }  # bfloat16: rounding depends on the batch
    expected = sample_completion_ids(model, tokenizer, tiny_prompts, **settings)
    assert sample_group_ids(model, tokenizer, tiny_prompts, **settings) == expected


def test_each_prompt_is_read_once_for_its_group_and_ended_rows_are_not_computed(policy):
    model, tokenizer = policy
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    settings = {"num_samples": 5, "max_completion_length": 12, "batch_size": 15}
    sampled = sample_group_ids(model, tokenizer, PROMPTS[:3], **settings)
    hook.remove()
    assert shapes[0][0] == 3
    # The last token of a completion is never read.
    assert sum(rows for rows, _ in shapes[1:]) == sum(len(sample) - 1 for group in sampled for sample in group)


def test_progress_counts_the_completions(policy):
    counted = []
    sample_group_ids(*policy, PROMPTS, num_samples=3, max_completion_length=2, batch_size=8, progress=counted.append)
    assert counted == [8, 8, 2]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"num_samples": 0}, {"max_completion_length": 0}])
def test_impossible_sampling_is_refused(policy, wrong):
    with pytest.raises(ValueError, match="at least"):
        sample_group_ids(*policy, PROMPTS, **{"max_completion_length": 4} | wrong)


def test_no_prompts_give_no_completions(policy):
    assert sample_group_ids(*policy, [], max_completion_length=4) == []
