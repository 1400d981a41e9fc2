"""The policy: load a causal language model with its tokenizer, and sample completions from it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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

from helpers.hub import PolicyError as PolicyError
from helpers.hub import locate

transformers_logging.disable_progress_bar()  # one bar per load and save would stay in the notebooks' outputs

Prompt = str | list[dict[str, str]]  # plain text, or chat messages with "role" and "content"


def load_policy(
    model: str | Path, *, device: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a policy and its tokenizer from a local folder or from the hub, in evaluation mode.

    A relative folder is looked up in the working folder, then in the project. The weights are float32 whatever the
    file holds: at RL learning rates an update is smaller than the spacing of bfloat16 numbers and would round away.
    Raises PolicyError where the folder is missing or holds no usable causal language model.
    """
    tokenizer = load_tokenizer(model)
    policy = _load(partial(AutoModelForCausalLM.from_pretrained, dtype=dtype), model)
    _agree_on_special_tokens(policy, tokenizer)
    return policy.to(device or "cpu").eval(), tokenizer


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer alone, from a local folder or from the hub; raises PolicyError as `load_policy` does."""
    tokenizer = _load(AutoTokenizer.from_pretrained, model)
    if tokenizer.eos_token_id is None:
        raise PolicyError(f"The tokenizer in {model} names no end token (eos_token), so no completion could ever end.")
    return tokenizer


def load_config(model: str | Path) -> PretrainedConfig:
    """The model's configuration alone, from a local folder or from the hub; raises PolicyError likewise."""
    return _load(AutoConfig.from_pretrained, model)


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The tokens a policy reads: chat messages go through the chat template, text is tokenized as it is."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write model and tokenizer to `folder`, so that `load_policy` and transformers' Auto classes load them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sample_completions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], **sampling: Any
) -> list[list[str]]:
    """Completions for each prompt as text without special tokens; `sampling` as for `sample_completion_ids`."""
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
) -> list[list[list[int]]]:
    """Sample token ids: `num_samples` lists per prompt, each at most `max_completion_length` long.

    Temperature 0 is greedy decoding. A completion that ended carries its end token last, one that was cut off none.
    Chat messages go through the chat template, text is tokenized as it is. `precision` "fp16" or "bf16" samples under
    autocast, as training does. Each call draws from a stream of its own,
    started at `seed`, and leaves torch's global stream and the model's mode alone. Raises ValueError for a negative
    temperature, no samples or no room for a token.
    """
    if temperature < 0 or num_samples < 1 or max_completion_length < 1 or batch_size < 1:
        raise ValueError("temperature must be at least 0; samples, completion length and batch size at least 1.")
    tokens = [tokenize_prompt(tokenizer, prompt) for prompt in prompts]
    # Prompts of like length share a batch: little padding, and completions that end at about the same time.
    order = sorted(range(len(prompts)), key=lambda i: len(tokens[i]))
    jobs = [i for i in order for _ in range(num_samples)]
    # Spelled out because generate() fills what is missing from the checkpoint: some ship top_p 0.8 and a repetition
    # penalty, and then the samples would not come from the distribution that the loss is computed for.
    settings = {"do_sample": temperature > 0, "repetition_penalty": 1.0, "max_new_tokens": max_completion_length}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_p": 1.0, "top_k": 0}
    completions: list[list[list[int]]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    with (
        torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []),
        autocast(model, precision),
    ):
        torch.manual_seed(seed)
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            sampled = _generate(model, tokenizer, [tokens[i] for i in batch], settings)
            for i, ids in zip(batch, sampled, strict=True):
                completions[i].append(ids)
    model.train(was_training)
    return completions


@dataclass(frozen=True)
class TokenBatch:
    """Prompts padded on the left, their completions on the right, as `pad_completions` makes them.

    input_ids, attention_mask: (completions, prompt + completion tokens). completion_mask: (completions, completion
    tokens), 1.0 on what the policy chose, its end token included.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    completion_mask: torch.Tensor


def pad_completions(
    prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], pad_token_id: int
) -> TokenBatch:
    """One row per completion, each behind its prompt.

    The masks come from the lengths, not from comparing ids: where the padding token is the end token too, comparing
    would drop the end from the loss, and no completion would ever learn to stop.
    """
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
    """Log-probability of each completion token and entropy (nats, no gradient) at its place: (completions, tokens).

    At the sampling temperature, so that it is the distribution that the completions came from.
    """
    length = batch.completion_mask.shape[1]
    # The scores at one position are those of the next token; only the completions' own are computed.
    scores = model(batch.input_ids, batch.attention_mask, logits_to_keep=length + 1).logits[:, :-1]
    logps = torch.log_softmax(scores.float() / temperature, -1)
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(-1)
    return logps.gather(-1, batch.input_ids[:, -length:, None]).squeeze(-1), entropies


def autocast(model: PreTrainedModel, precision: str) -> AbstractContextManager:
    """Compute in "fp16" or "bf16" where that is safe, the weights staying what they are; "fp32" changes nothing."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.autocast(model.device.type, dtype) if precision != "fp32" else nullcontext()


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a completion: the tokenizer's end token first, then any others the model names."""
    named = model.generation_config.eos_token_id
    others = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))


def _agree_on_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the model name the tokenizer's end and padding tokens, so that no later step has to guess them."""
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
    except Exception as error:  # the loaders raise many types; all of them mean the same to the reader
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(f"No causal language model could be loaded from {model}: {reason}") from error


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[list[int]], settings: dict[str, Any]
) -> list[list[int]]:
    """Complete one batch; each list ends with the first end token."""
    ends = end_token_ids(model, tokenizer)
    # Padding goes to the left: a completion must follow its prompt without a gap.
    padded = tokenizer.pad({"input_ids": prompt_ids}, padding_side="left", return_tensors="pt").to(model.device)
    output = model.generate(**padded, **settings, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    rows = output[:, padded["input_ids"].shape[1] :].tolist()
    lengths = [next((n for n, token in enumerate(row, 1) if token in ends), len(row)) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]
