import pytest
import torch
from random_policy import arithmetic_problems, save_random_policy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from helpers import hub
from helpers.policy import (
    PolicyError,
    end_token_ids,
    load_config,
    load_policy,
    load_tokenizer,
    pad_completions,
    per_token_logps,
    sample_completion_ids,
    sample_completions,
    save_policy,
)

PROMPTS = [problem.prompt for problem in arithmetic_problems()]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def policy(folder):
    return load_policy(folder)


def greedy_one_by_one(model, tokenizer, prompt, length):
    """Greedy decoding without padding, batching or a cache."""
    ids, new = tokenizer(prompt)["input_ids"], []
    for _ in range(length):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    return new


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


def test_samples_follow_the_models_distribution(policy):
    model, tokenizer = policy
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])).logits[0, -1]
    for temperature in (0.5, 1.0):
        (samples,) = sample_completion_ids(
            model, tokenizer, PROMPTS[:1], num_samples=4000, temperature=temperature, max_completion_length=1
        )
        observed = torch.bincount(torch.tensor(samples)[:, 0], minlength=len(logits)) / 4000
        expected = torch.softmax(logits / temperature, -1)
        assert (observed - expected).abs().max() < 0.03  # four standard errors of a share of 0.5


def test_the_checkpoints_own_sampling_settings_are_not_used(policy):
    model, tokenizer = policy
    settings = {"num_samples": 4, "max_completion_length": 10, "seed": 3}
    expected = sample_completions(model, tokenizer, PROMPTS, **settings)
    model.generation_config.update(top_p=0.1, top_k=1, repetition_penalty=5.0, temperature=0.1, do_sample=True)
    assert sample_completions(model, tokenizer, PROMPTS, **settings) == expected
    greedy = sample_completions(model, tokenizer, PROMPTS[:1], temperature=0, max_completion_length=10)
    assert tokenizer.decode(greedy_one_by_one(model, tokenizer, PROMPTS[0], 10)) == greedy[0][0]


def test_a_seed_fixes_the_samples_and_the_global_stream_stays(policy):
    model, tokenizer = policy
    settings = {"num_samples": 2, "max_completion_length": 10}
    before = torch.get_rng_state()
    first = sample_completions(model, tokenizer, PROMPTS, seed=5, **settings)
    torch.randn(7)
    assert sample_completions(model, tokenizer, PROMPTS, seed=5, **settings) == first
    assert sample_completions(model, tokenizer, PROMPTS, seed=6, **settings) != first
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


def test_completions_stop_at_the_end_token_and_texts_do_not_show_it(policy):
    model, tokenizer = policy
    end = tokenizer.eos_token_id
    with torch.no_grad():  # a tied head scores tokens against the embedding: a copy of a common one becomes common
        model.get_input_embeddings().weight[end] = 2 * model.get_input_embeddings().weight.abs().mean(0)
    ids = sample_completion_ids(model, tokenizer, PROMPTS, num_samples=20, max_completion_length=12)
    flat = [sample for samples in ids for sample in samples]
    ended = [sample for sample in flat if end in sample]
    assert 0 < len(ended) < len(flat)
    assert all(sample.index(end) == len(sample) - 1 for sample in ended)
    assert all(len(sample) == 12 for sample in flat if end not in sample)
    texts = sample_completions(model, tokenizer, PROMPTS, num_samples=20, max_completion_length=12)
    assert not any(tokenizer.eos_token in text for samples in texts for text in samples)


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


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision_is_autocast_for_the_time_of_sampling(policy, precision, dtype):
    model, tokenizer = policy
    seen = set()

    def look(*_):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)

    hook = model.register_forward_pre_hook(look)
    sample_completions(model, tokenizer, PROMPTS[:2], max_completion_length=2, precision=precision)
    hook.remove()
    assert seen == {dtype}
    assert not torch.is_autocast_enabled("cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


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
