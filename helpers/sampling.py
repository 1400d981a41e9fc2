"""Sample groups of completions: read each prompt once, drop the rows that have ended, stop where the function ends.

`model.generate` reads a prompt again for every sample of its group, and computes on until the longest row of the batch
has ended. Here a prompt is read once, its keys and values are copied to the rows of its group, and rows that have ended
leave the batch.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from helpers.policy import Prompt, autocast, end_token_ids, sample_completion_ids, tokenize_prompt

EndRule = Callable[[str], bool]


@torch.no_grad()
def sample_group_ids(
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
    """Sample token ids: `num_samples` lists per prompt, each at most `max_completion_length` long.

    The arguments and the result are those of `helpers.policy.sample_completion_ids`. Temperature 0 is greedy decoding
    and gives the same tokens as `generate`; at other temperatures the distribution is the same, but not the draws.
    Each call draws from a random stream of its own, started at `seed`, and leaves the model's mode as it was.

    `ends` is an extra rule, such as `function_ended`: as soon as it is true of a completion's text, the completion
    ends. The token that made it true is the last one, and no EOS token follows it. After each batch, `progress` is
    called with the number of completions in it.

    "fp16" and "bf16" sample under autocast on a GPU. On a CPU they change nothing: autocast would convert every weight
    again for every token, which takes far longer than the computation itself. A model with a recurrent state instead of
    keys and values (Mamba, and hybrids with it) is sampled with `generate`. Raises ValueError for a negative
    temperature, or if the number of samples, the length or the batch size is below 1.
    """
    if temperature < 0 or num_samples < 1 or max_completion_length < 1 or batch_size < 1:
        raise ValueError("temperature must be at least 0; samples, completion length and batch size at least 1.")
    if model.device.type == "cpu":
        precision = "fp32"
    if not _can_drop_rows(model):
        groups = sample_completion_ids(
            model,
            tokenizer,
            prompts,
            num_samples=num_samples,
            temperature=temperature,
            max_completion_length=max_completion_length,
            batch_size=batch_size,
            precision=precision,
            seed=seed,
        )
        if progress:
            progress(len(prompts) * num_samples)
        return [[_cut(tokenizer, ids, ends) for ids in group] for group in groups]
    tokens = [tokenize_prompt(tokenizer, prompt) for prompt in prompts]
    # Sort by length, so that a batch needs little padding. The samples of one prompt stay together.
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
                rows = _sample_batch(
                    model,
                    tokenizer,
                    [tokens[i] for i in batch],
                    temperature=temperature,
                    max_completion_length=max_completion_length,
                    generator=generator,
                    ends=ends,
                )
                for i, ids in zip(batch, rows, strict=True):
                    completions[i].append(ids)
                if progress:
                    progress(len(batch))
    finally:
        model.train(was_training)
    return completions


def function_ended(text: str) -> bool:
    """Tell whether a function whose body begins `text` is over: a line without indentation follows the body.

    Lines inside a triple-quoted string, and lines that begin by closing a bracket, still belong to the body.

    >>> function_ended("    return a + b\\n"), function_ended("    return a + b\\n\\nprint")
    (False, True)
    """
    in_body = in_string = False
    for line in text.split("\n"):
        if in_body and not in_string and line[:1].strip() and line[0] not in ")]}":
            return True
        in_body = in_body or bool(line.strip() and line[0] in " \t")
        in_string ^= (line.count('"""') + line.count("'''")) % 2 == 1
    return False


def is_cut_off(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    max_completion_length: int,
    ends: EndRule | None = None,
) -> bool:
    """Tell whether a completion reached the length limit without an EOS token and without the rule `ends`."""
    if len(ids) < max_completion_length or ids[-1] in end_token_ids(model, tokenizer):
        return False
    return ends is None or not ends(tokenizer.decode(ids))


def _can_drop_rows(model: PreTrainedModel) -> bool:
    """Tell whether all that the model remembers of a row are keys and values, which can be copied and dropped."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def _cut(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: EndRule | None) -> list[int]:
    """Cut a completion after the first token at which the rule `ends` is true."""
    lengths = range(1, len(ids) + 1) if ends is not None else ()
    return next((ids[:n] for n in lengths if ends(tokenizer.decode(ids[:n]))), ids)


def _sample_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[list[int]],
    *,
    temperature: float,
    max_completion_length: int,
    generator: torch.Generator,
    ends: EndRule | None,
) -> list[list[int]]:
    """Complete one batch. Equal prompts that follow one another are read once."""
    firsts = [row for row, ids in enumerate(prompt_ids) if row == 0 or ids != prompt_ids[row - 1]]
    repeats = torch.tensor([*firsts[1:], len(prompt_ids)]) - torch.tensor(firsts)
    owner = torch.arange(len(firsts)).repeat_interleave(repeats).to(model.device)  # which prompt a row belongs to
    # Pad on the left, so that every completion follows its prompt without a gap.
    padded = tokenizer.pad({"input_ids": [prompt_ids[row] for row in firsts]}, padding_side="left", return_tensors="pt")
    mask = padded["attention_mask"].to(model.device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    forward = _forward(model)
    output = forward(padded["input_ids"].to(model.device), mask, position, None)
    cache = output.past_key_values
    cache.batch_select_indices(owner)  # selecting an index several times copies it
    logits, mask, position = output.logits[owner, -1], mask[owner], position[owner, -1:]
    stops = torch.tensor(end_token_ids(model, tokenizer), device=model.device)
    completions: list[list[int]] = [[] for _ in prompt_ids]
    alive = torch.arange(len(prompt_ids))
    for length in range(1, max_completion_length + 1):
        # One number for every row, even if it has ended: then no row's draws depend on when the others end.
        uniform = torch.rand(len(prompt_ids), generator=generator, device=model.device, dtype=torch.float64)
        token = _choose(logits, temperature, uniform[alive.to(model.device)])
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
            alive, left = alive[left], left.to(model.device)
            cache.batch_select_indices(left)
            token, mask, position = token[left], mask[left], position[left]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        position = position + 1
        logits = forward(token[:, None], mask, position, cache).logits[:, -1]
    return completions


def _choose(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """Choose one token per row: the most likely one at temperature 0, else the one at which the running sum of the
    probabilities passes `uniform`. (torch.multinomial draws a number for each token of the vocabulary, which takes
    0.2 s for 48 rows of Qwen's 151,936 on two cores.)
    """
    if temperature == 0:
        return logits.float().argmax(-1)
    total = torch.softmax(logits.float() / temperature, -1).cumsum(-1, dtype=torch.float64)
    # right=True never chooses a token of probability 0; rounding may otherwise pass the last token.
    chosen = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)
    return chosen[:, 0].clamp(max=logits.shape[-1] - 1)


def _forward(model: PreTrainedModel) -> Callable[..., Any]:
    """Return a function that runs the model on new tokens, with the arguments that this kind of model takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # a PEFT model takes **kwargs
    accepted = inspect.signature(type(base).forward).parameters  # a trainer may have wrapped base.forward

    def forward(ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Any) -> Any:
        options = {"position_ids": position, "logits_to_keep": 1}
        options = {name: value for name, value in options.items() if name in accepted}
        return model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)

    return forward
