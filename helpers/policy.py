"""Load a policy (a causal language model and its tokenizer), sample from it, and score what it wrote."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from helpers.answers import EndRule
from helpers.hub import PolicyError as PolicyError
from helpers.hub import is_adapter, locate

if TYPE_CHECKING:
    from peft import PeftModel

# Otherwise each load and save leaves a bar in the notebooks' outputs.
transformers_logging.disable_progress_bar()

Prompt = str | list[dict[str, str]]  # plain text, or chat messages with "role" and "content"


def load_policy(model: str | Path, *, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a local folder or the Hub, in evaluation mode.

    A relative folder is looked up in the working folder, then in the project. If it contains an adapter, the base model
    that it names is loaded too, and the adapter stays separate. Raises PolicyError if the folder is
    missing or contains no usable causal language model.

    >>> model, tokenizer = load_policy("data/tiny_coder")
    >>> model.dtype
    torch.float32
    """
    folder = locate(model)
    if is_adapter(folder):
        return load_adapter(folder, device=device)
    tokenizer = load_tokenizer(model)
    # Always float32, whatever the file contains. At RL learning rates an update is smaller than the spacing of
    # bfloat16 numbers, and would be rounded away.
    policy = _load(partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32), model)
    _agree_on_special_tokens(policy, tokenizer)
    return policy.to(device or "cpu").eval(), tokenizer


def load_adapter(
    folder: str | Path, *, device: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple["PeftModel", PreTrainedTokenizerBase]:
    """Load the base model that an adapter's folder names, in `dtype`, with the adapter on it, in evaluation mode.

    float32 is fast on every CPU; bfloat16 needs half the memory, and is slow on a CPU without instructions for it.
    Raises PolicyError, as `load_policy` does, if the base model is not available.
    """
    from peft import PeftConfig, PeftModel

    name = PeftConfig.from_pretrained(folder).base_model_name_or_path
    base, tokenizer = load_policy(name, device=device)
    return PeftModel.from_pretrained(freeze(base, dtype), folder).eval(), tokenizer


def convert_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Convert the weights in place and return the model. (`model.to` would round the frequencies of positions too.)"""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def freeze(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Freeze all weights, convert them in place to `dtype` and return the model, ready to carry an adapter.

    The output layer gets its input without gaps in memory. `logits_to_keep=1` hands it a slice, and with a slice and
    weights that are frozen, torch 2.13 copies the weights for each row: with Qwen2.5-Coder-0.5B in bfloat16, 272 MB and
    a second per row.
    """
    convert_weights(model.requires_grad_(False), dtype)
    model.get_output_embeddings().register_forward_pre_hook(_without_gaps)
    return model


def _without_gaps(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (arguments[0].contiguous(), *arguments[1:])


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """Load only the tokenizer, from a local folder or the Hub. Raises PolicyError as `load_policy` does."""
    tokenizer = _load(AutoTokenizer.from_pretrained, model)
    if tokenizer.eos_token_id is None:
        raise PolicyError(
            f"The tokenizer in {model} has no eos_token, so every completion would run to the length limit."
        )
    return tokenizer


def load_config(model: str | Path) -> PretrainedConfig:
    """Load only the model's configuration, from a local folder or the Hub. Raises PolicyError as `load_policy` does."""
    return _load(AutoConfig.from_pretrained, model)


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt. Chat messages go through the chat template, text is tokenized as it is."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write model and tokenizer to `folder`, in the form that `load_policy` and transformers' Auto classes load."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sample_completions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], **sampling: Any
) -> list[list[str]]:
    """Sample completions for each prompt, as text without special tokens.

    `sampling` goes to `sample_completion_ids`. Returns one list per prompt.

    >>> model, tokenizer = load_policy("data/tiny_coder")
    >>> prompt = "def sum_of_squares(xs):\\n    # Return the sum of the squares of the numbers in xs.\\n"
    >>> completions = sample_completions(model, tokenizer, [prompt], num_samples=3, max_completion_length=8)
    >>> len(completions), len(completions[0])
    (1, 3)
    """
    ids = sample_completion_ids(model, tokenizer, prompts, **sampling)
    return [tokenizer.batch_decode(samples, skip_special_tokens=True) for samples in ids]


@torch.no_grad()
def sample_completion_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    num_samples: int = 1,
    temperature: float = 1.0,
    max_completion_length: int,
    batch_size: int = 256,
    precision: str = "fp32",
    seed: int = 0,
    ends: EndRule | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[list[int]]]:
    """Sample token ids: `num_samples` lists for each prompt, each of at most `max_completion_length` ids.

    Temperature 0 is greedy decoding, with the same tokens as transformers' `generate`. This is faster than `generate`:
    it reads a prompt once for all its samples in a batch, and drops rows that have ended. Equal prompts that are next
    to each other count as one, so the form in which TRL passes prompts is as fast.

    A completion that ended has the EOS token as its last id, and a truncated one has none. `ends` adds a rule, such as
    `function_ended`: a completion ends as soon as the rule is true of its text. Then the token that made it true is the
    last one, and no EOS token follows.

    `precision` "fp16" or "bf16" samples under autocast, on a GPU only. Each call uses a random stream of its own, which
    starts from `seed`: torch's global stream does not move, and neither does the model's mode. After each batch,
    `progress` is called with the number of completions in it. Raises ValueError for a negative temperature, and for
    fewer than one sample, token or completion in a batch, and PolicyError for a model without a cache.

    >>> model, tokenizer = load_policy("data/tiny_coder")
    >>> prompts = ["def f(xs):\\n", "def g(n):\\n"]
    >>> ids = sample_completion_ids(model, tokenizer, prompts, num_samples=3, max_completion_length=4)
    >>> len(ids), len(ids[0]), max(len(completion) for completion in ids[0])
    (2, 3, 4)
    """
    if temperature < 0 or num_samples < 1 or max_completion_length < 1 or batch_size < 1:
        raise ValueError(
            "temperature must be at least 0; num_samples, max_completion_length and batch_size at least 1."
        )
    tokens = [tokenize_prompt(tokenizer, prompt) for prompt in prompts]
    # Prompts of similar length share a batch, which needs little padding. The samples of a prompt stay together.
    order = sorted(range(len(prompts)), key=lambda i: len(tokens[i]))
    jobs = [i for i in order for _ in range(num_samples)]
    generator = torch.Generator(model.device).manual_seed(seed)
    completions: list[list[list[int]]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    try:
        with autocast(model, precision):
            for start in range(0, len(jobs), batch_size):
                batch = jobs[start : start + batch_size]
                prompt_ids = [tokens[i] for i in batch]
                rows = _sample_batch(model, tokenizer, prompt_ids, temperature, max_completion_length, generator, ends)
                for i, ids in zip(batch, rows, strict=True):
                    completions[i].append(ids)
                if progress:
                    progress(len(batch))
    finally:
        model.train(was_training)
    return completions


def is_cut_off(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    max_completion_length: int,
    ends: EndRule | None = None,
) -> bool:
    """Return whether a completion reached the length limit without an EOS token and without the rule `ends`."""
    if len(ids) < max_completion_length or ids[-1] in end_token_ids(model, tokenizer):
        return False
    return ends is None or not ends(tokenizer.decode(ids))


@dataclass(frozen=True)
class TokenBatch:
    """Prompts padded on the left and their completions on the right, as `pad_completions` makes them.

    `input_ids` and `attention_mask` have shape (completions, prompt + completion tokens). `completion_mask` has shape
    (completions, completion tokens); it is 1.0 on the tokens that the policy chose, the EOS token included.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    completion_mask: torch.Tensor

    def to(self, device: torch.device) -> "TokenBatch":
        """Return the batch on a device."""
        return TokenBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def pad_completions(
    prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], pad_token_id: int
) -> TokenBatch:
    """Put each completion after its prompt and pad them all to one length, one row per completion.

    >>> pad_completions([[5, 6], [7]], [[1], [2, 3]], pad_token_id=0).input_ids
    tensor([[5, 6, 1, 0],
            [0, 7, 2, 3]])
    """
    # The masks come from the lengths. Comparing ids with the padding token would also mask the EOS token where the two
    # are the same, and the policy would never learn to stop.
    left, right = max(map(len, prompt_ids)), max(map(len, completion_ids))
    rows, attention = [], []
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        before, after = left - len(prompt), right - len(completion)
        rows.append([pad_token_id] * before + [*prompt, *completion] + [pad_token_id] * after)
        attention.append([0] * before + [1] * (len(prompt) + len(completion)) + [0] * after)
    mask = torch.tensor(attention)
    return TokenBatch(torch.tensor(rows), mask, mask[:, left:].float())


def per_token_logps(
    model: PreTrainedModel, batch: TokenBatch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each completion token, and the entropy (nats, no gradient) at its position.

    Both have shape (completions, tokens). Pass the sampling temperature: then they describe the distribution that the
    completions were drawn from.
    """
    length = batch.completion_mask.shape[1]
    # The logits at one position score the next token. So the completion's logits start one position before it.
    scores = model(batch.input_ids, batch.attention_mask, logits_to_keep=length + 1).logits[:, :-1]
    logps = torch.log_softmax(scores.float() / temperature, -1)
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(-1)
    return logps.gather(-1, batch.input_ids[:, -length:, None]).squeeze(-1), entropies


def autocast(model: PreTrainedModel, precision: str) -> AbstractContextManager:
    """Return a context that samples in "fp16" or "bf16" where it is safe. "fp32" changes nothing, nor does a CPU."""
    # On a CPU, autocast converts every weight again for every token. That takes far longer than it saves.
    if precision == "fp32" or model.device.type == "cpu":
        return nullcontext()
    return torch.autocast(model.device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}[precision])


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return all EOS token ids: the tokenizer's first, then any others that the model names."""
    named = model.generation_config.eos_token_id
    others = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))


def _agree_on_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Copy the tokenizer's EOS and padding tokens to the model, so that no later step has to guess them."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.eos_token_id = end_token_ids(model, tokenizer)
    model.config.eos_token_id = tokenizer.eos_token_id
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id


def _load(loader: Callable[[str], Any], model: str | Path) -> Any:
    source = locate(model)
    try:
        return loader(source)
    # The loaders raise many types, and they all mean the same to the reader.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(f"No causal language model could be loaded from {model}: {reason}") from error


def _sample_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[list[int]],
    temperature: float,
    max_completion_length: int,
    generator: torch.Generator,
    ends: EndRule | None,
) -> list[list[int]]:
    """Complete one batch. Equal prompts that are next to each other are read once."""
    device = model.device
    firsts = [row for row, ids in enumerate(prompt_ids) if row == 0 or ids != prompt_ids[row - 1]]
    repeats = torch.tensor([*firsts[1:], len(prompt_ids)]) - torch.tensor(firsts)
    owner = torch.arange(len(firsts)).repeat_interleave(repeats).to(device)
    # Pad on the left, because a completion must follow its prompt without a gap.
    padded = tokenizer.pad({"input_ids": [prompt_ids[row] for row in firsts]}, padding_side="left", return_tensors="pt")
    mask = padded["attention_mask"].to(device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    forward = _forward(model)
    logits, cache = forward(padded["input_ids"].to(device), mask, position, None)
    # To select an index several times is to copy it: from one row per prompt to one row per completion.
    cache.reorder_cache(owner)
    logits, mask, position = logits[owner], mask[owner], position[owner, -1:]
    stops = torch.tensor(end_token_ids(model, tokenizer), device=device)
    completions: list[list[int]] = [[] for _ in prompt_ids]
    alive = torch.arange(len(prompt_ids))
    for length in range(1, max_completion_length + 1):
        # Draw a number for every row, also for those that have ended. Then no row depends on when the others end.
        uniform = torch.rand(len(prompt_ids), generator=generator, device=device, dtype=torch.float64)
        token = _choose(logits, temperature, uniform[alive.to(device)])
        for row, new in zip(alive.tolist(), token.tolist(), strict=True):
            completions[row].append(new)
        ended = torch.isin(token, stops).cpu()
        if ends is not None:
            texts = tokenizer.batch_decode([completions[row] for row in alive.tolist()])
            ended |= torch.tensor([ends(text) for text in texts])
        if length == max_completion_length or ended.all():
            break
        if ended.any():
            left = torch.nonzero(~ended)[:, 0]
            alive, left = alive[left], left.to(device)
            cache.reorder_cache(left)
            token, mask, position = token[left], mask[left], position[left]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        position = position + 1
        logits, cache = forward(token[:, None], mask, position, cache)
    return completions


def _choose(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """Choose one token per row: at temperature 0 the likeliest, else where the summed probabilities pass `uniform`."""
    if temperature == 0:
        return logits.float().argmax(-1)
    # torch.multinomial draws a number for each token of the vocabulary. For 48 rows of Qwen's 151,936 tokens that takes
    # 0.2 s on two cores, at every step.
    total = torch.softmax(logits.float() / temperature, -1).cumsum(-1, dtype=torch.float64)
    # With right=True a token of probability 0 is never chosen. Rounding can pass the last token, so clamp.
    chosen = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)
    return chosen[:, 0].clamp(max=logits.shape[-1] - 1)


def _forward(model: PreTrainedModel) -> Callable[..., tuple[torch.Tensor, Any]]:
    """Return a function from new tokens to the logits after them, (rows, vocabulary), and the cache.

    Raises PolicyError, when it is called, for a model without a cache.
    """
    # A PEFT model and a trainer wrap `forward` and take any argument, so ask the class of the model itself.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(type(base).forward).parameters
    # Mamba has a state instead of keys and values. Its mask covers the new tokens only, not what the state has read.
    is_recurrent = "cache_params" in accepted
    name = "cache_params" if is_recurrent else "past_key_values"

    def forward(ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        options = {"position_ids": position, "logits_to_keep": 1}
        options = {option: value for option, value in options.items() if option in accepted} | {name: cache}
        if is_recurrent:
            mask = mask[:, -ids.shape[1] :]
        output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options)
        if output.get(name) is None:
            raise PolicyError(
                f"Models of the class {type(base).__name__} keep no cache, so this course cannot sample from them."
            )
        return output.logits[:, -1], output[name]

    return forward
