"""LoRA (arXiv 2106.09685): train small adapters on a frozen model; save, reload and merge them, and check each step.

The frozen weights need no more than bfloat16, because nothing is added to them. The adapter's are float32: at RL
learning rates an update is smaller than the spacing of bfloat16 numbers and would be lost.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from helpers.hub import PolicyError
from helpers.policy import (
    Prompt,
    freeze,
    load_adapter,
    load_policy,
    pad_completions,
    sample_completion_ids,
    save_policy,
    tokenize_prompt,
)
from helpers.runtime import CourseError

if TYPE_CHECKING:
    from peft import PeftModel

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def add_adapter(
    model: PreTrainedModel,
    rank: int,
    layers: Sequence[int] | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> "PeftModel":
    """Freeze `model`, convert it to `dtype` and add a float32 adapter to its linear layers, except the output layer.

    `layers` are the numbers of the transformer layers that get one; None means all. With the upper layers only, the
    backward pass is shorter. The new adapter changes no output yet. `seed` fixes its initial weights, and torch's
    global random stream is left alone. Raises PolicyError for a rank below 1 or a layer that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    count = model.config.get_text_config().num_hidden_layers
    if rank < 1 or not all(0 <= layer < count for layer in layers or ()):
        raise PolicyError(
            f"lora_rank must be at least 1 and lora_layers between 0 and {count - 1}, as the model has {count} layers, "
            f"not {rank} and {layers}."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,  # the update is multiplied by alpha / r = 2
        target_modules=_linear_names(model),
        layers_to_transform=None if layers is None else list(layers),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(freeze(model, dtype), config).eval()


def save_adapter(model: "PeftModel", tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write the adapter and the tokenizer to `folder`; the base model is only named there."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_adapter(
    model: "PeftModel",
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    prompts: Sequence[Prompt],
    *,
    max_completion_length: int = 64,
    batch_size: int = 16,
) -> None:
    """Load a saved adapter again and compare its greedy completions with those of `model`, in the same batches.

    Raises CourseError if they differ: then the folder does not contain what was trained.
    """
    again, _ = load_adapter(folder, device=str(model.device), dtype=model.get_base_model().dtype)
    settings = {"temperature": 0, "max_completion_length": max_completion_length, "batch_size": batch_size}
    if sample_completion_ids(again, tokenizer, prompts, **settings) != sample_completion_ids(
        model, tokenizer, prompts, **settings
    ):
        raise CourseError(f"The adapter in {folder}, loaded again, does not write what the trained model writes.")


def merge_adapter(folder: str | Path, merged: str | Path, prompts: Sequence[Prompt]) -> None:
    """Merge the adapter in `folder` into its base model and save the result in `merged`, in float32.

    Merging into bfloat16 would round most of the update away. The saved model is loaded again and compared, by its
    logits on `prompts`, with the adapter on a float32 base and with the base alone. Raises CourseError if the adapter
    changes nothing, or if the merged model is not far closer to the adapter than to the base.
    """
    model, tokenizer = load_adapter(folder)
    adapted = _logits(model, tokenizer, prompts)
    with model.disable_adapter():
        base = _logits(model, tokenizer, prompts)
    save_policy(model.merge_and_unload(), tokenizer, merged)
    again, _ = load_policy(merged)
    change = (adapted - base).abs().max().item()
    error = (adapted - _logits(again, tokenizer, prompts)).abs().max().item()
    if change == 0:
        raise CourseError(f"The adapter in {folder} changes nothing: the merged model is the untrained one.")
    if error > change / 10:
        raise CourseError(
            f"The model in {merged} differs from the adapter in {folder} by {error:.2g} in its logits, and the adapter "
            f"changes them by only {change:.2g}: the merge has lost the update."
        )


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of the linear layers ("q_proj", ...), without the output layer's."""
    kinds = (torch.nn.Linear, Conv1D)  # GPT-2's linear layers are Conv1D
    output = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not output]
    return sorted({name.rpartition(".")[2] for name in names})


@torch.no_grad()
def _logits(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Return the logits for the token after each prompt, shape (prompts, vocabulary)."""
    tokens = [tokenize_prompt(tokenizer, prompt) for prompt in prompts]
    batch = pad_completions([ids[:-1] for ids in tokens], [ids[-1:] for ids in tokens], tokenizer.pad_token_id)
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, -1].float()
