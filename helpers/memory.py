"""Compute the memory that a training run needs, in bytes, from the architecture, before any weight is loaded.

Weights, gradients and optimizer are exact. Activations and the KV cache follow the layers of Llama and Qwen2, and
assume the worst case, completions of full length. Only a measurement shows what a GPU really used.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from helpers.policy import load_config, load_tokenizer, tokenize_prompt
from helpers.problems import Problem, choose_prompt_mode, prompt_text
from helpers.profiles import Settings
from helpers.runtime import CourseError

FP32, HALF = 4, 2  # bytes of a number
GIB = 2**30
USABLE = 0.9  # fraction of a device's memory to plan with; the rest covers fragmentation and what we do not count
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768  # TRL 1.16 computes the logits in tiles of this size while training
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 1 << 20  # glibc's malloc.h; bytes
SAMPLING_LOGITS = 4  # copies while a token is drawn: logits, logits over temperature, probabilities, running sums


class MemoryNeededError(CourseError):
    """A run that does not fit into the device's memory. The message names a setting to change."""


def model_states(
    parameters: int,
    *,
    critic: bool = False,
    reward_model: bool = False,
    reference: bool = False,
    frozen_bytes: int = HALF,
    adapter: int = 0,
) -> dict[str, int]:
    """Return the bytes of the models alone, by part. Every model has `parameters` parameters.

    A trained parameter takes 16 bytes: 4 for its weight in float32, 4 for its gradient, 8 for AdamW's two moments
    (arXiv 1910.02054, section 3.1, also counts 16, divided differently). A frozen one takes `frozen_bytes`: 2 in bf16,
    but 4 for TRL's reference, which is in float32. The critic, PPO's value model, is trained. With LoRA, only the
    `adapter` parameters are trained, and the frozen base is also the reference.

    >>> model_states(1_000_000)
    {'weights': 4000000, 'gradients': 4000000, 'optimizer': 8000000}
    """
    trained = adapter or parameters
    parts = {
        "weights": FP32 * trained + (frozen_bytes * parameters if adapter else 0),
        "gradients": FP32 * trained,
        "optimizer": 2 * FP32 * trained,
        "critic": 4 * FP32 * trained + (frozen_bytes * parameters if adapter else 0) if critic else 0,
        "reference": frozen_bytes * parameters if reference and not adapter else 0,
        "reward model": frozen_bytes * parameters if reward_model else 0,
    }
    return {name: size for name, size in parts.items() if size}


def count_parameters(config: PretrainedConfig) -> int:
    """Return the number of parameters of the model in `config`. Tied ones count once; no memory is allocated."""
    return _empty_model(config).num_parameters()


def lora_parameters(config: PretrainedConfig, rank: int, layers: Sequence[int] | None = None) -> int:
    """Return the number of parameters that LoRA trains: rank * (inputs + outputs) per linear layer but the last.

    `layers` are the transformer layers that get an adapter; None means all.
    """
    model = _empty_model(config)
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [
        module
        for name, module in linear.items()
        if module is not head and (layers is None or any(f".layers.{layer}." in name for layer in layers))
    ]
    return sum(rank * (layer.in_features + layer.out_features) for layer in chosen)


def kv_cache(config: PretrainedConfig, tokens: int, number_bytes: int = FP32) -> int:
    """Return the bytes of the keys and values that generation keeps for `tokens` tokens of all sequences together.

    With float32 weights they are in float32, even under autocast, because the rotated keys take the dtype of the
    residual stream (read and tried in transformers 5.23). A model in bf16 keeps half of that.
    """
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * tokens * number_bytes


def full_logits(config: PretrainedConfig, tokens: int, copies: int = 3) -> int:
    """Return the bytes of float32 logits for `tokens` tokens if they are computed all at once, as in plain PyTorch.

    Three copies exist in the backward pass: the logits, their log-softmax, and its gradient. TRL 1.16 computes them in
    tiles and keeps none (`trl/kernels/chunked_logprob.py`).
    """
    return FP32 * copies * config.vocab_size * tokens


def activations(
    config: PretrainedConfig, tokens: int, length: int, half: bool, checkpointing: bool, layers: int | None = None
) -> int:
    """Return the bytes that the layers keep for the backward pass, for `tokens` tokens in sequences of `length`.

    With hidden size H and intermediate size I, a layer keeps per token 34 H + 8 I under autocast and 40 H + 16 I in
    float32 (counted from the tensors that autograd saves in Qwen2), and also the attention's mask and log-sums.
    Activation checkpointing keeps only 4 H, and recomputes one layer at a time. `layers` is the number of layers that
    the backward pass goes through; None means all.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    wide = 34 * hidden + 8 * inner + HALF * length if half else 40 * hidden + 16 * inner + FP32 * length
    layer = wide + FP32 * (config.num_attention_heads + 2)
    layers = config.num_hidden_layers if layers is None else layers
    return tokens * (layers * FP32 * hidden + layer if checkpointing else layers * layer)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by part: those that last through the run, and those that exist only while it samples or learns."""

    lasting: dict[str, int]
    sampling: dict[str, int]
    learning: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes at the worst moment. Sampling and learning take turns, so only the larger of the two counts."""
        return sum(self.lasting.values()) + max(sum(self.sampling.values()), sum(self.learning.values()))


def training_memory(
    settings: Settings, config: PretrainedConfig, prompt_tokens: int, train_prompt_tokens: int | None = None
) -> TrainingMemory:
    """Return the memory that a GRPO run with these settings needs if its longest prompt has `prompt_tokens` tokens.

    `train_prompt_tokens` is the length of the longest prompt that is trained on; None means the same.
    The count follows TRL 1.16: float32 weights, a second copy of the matrices in half precision under autocast, no
    full logits in training, and a second copy of the LM head's gradient while it is computed.
    """
    parameters, half = count_parameters(config), settings.precision != "fp32"
    adapter = lora_parameters(config, settings.lora_rank, settings.lora_layers) if settings.lora_rank else 0
    frozen = HALF if adapter and settings.lora_base == "bf16" else FP32
    states = model_states(parameters, reference=settings.beta > 0, frozen_bytes=frozen, adapter=adapter)
    gradients = states.pop("gradients")
    copies = {"half-precision copies": HALF * parameters} if half and frozen == FP32 else {}
    half = half or frozen == HALF
    number = HALF if half else FP32
    trained = train_prompt_tokens or prompt_tokens
    length = trained + settings.max_completion_length
    sampled = prompt_tokens + settings.sampling["max_completion_length"]
    rows = max(settings.completions_per_step, settings.per_device_eval_batch_size)
    tokens = settings.micro_batch * length
    if settings.group_sampling and not settings.activation_checkpointing:  # each prompt is read once
        prompts = min(settings.prompts_per_step, settings.micro_batch)
        tokens = settings.micro_batch * (settings.max_completion_length + 1) + prompts * trained
    layers = config.num_hidden_layers - min(settings.lora_layers or (0,))
    prefill = rows * prompt_tokens * (4 * FP32 * config.hidden_size + 3 * number * config.intermediate_size)
    tile = min(tokens, TILE_TOKENS) * min(config.vocab_size, TILE_VOCABULARY) * number
    return TrainingMemory(
        lasting=states,
        sampling=copies
        | {
            "KV cache": kv_cache(config, rows * sampled, frozen),
            "logits": SAMPLING_LOGITS * FP32 * config.vocab_size * rows,
            "activations": prefill,
        },
        learning=copies
        | {
            "gradients": gradients,
            "LM head gradient": FP32 * config.hidden_size * (tokens + (0 if adapter else config.vocab_size)),
            "logits": tile,
            "activations": activations(config, tokens, length, half, settings.activation_checkpointing, layers),
        },
    )


def plan_memory(settings: Settings, problems: Sequence[Problem], held_out: Sequence[Problem] = ()) -> TrainingMemory:
    """Return the memory that a run needs that trains on `problems`, before any weight is loaded.

    Raises MemoryNeededError if the device has less.
    """
    tokenizer = load_tokenizer(settings.model)
    mode = choose_prompt_mode(tokenizer, settings.prompt)
    lengths = [len(tokenize_prompt(tokenizer, prompt_text(one, tokenizer, mode))) for one in (*problems, *held_out)]
    trained = max(lengths[: len(problems)])
    memory = training_memory(settings, load_config(settings.model), max(lengths), trained)
    check_memory(memory, device_memory(settings.device))
    return memory


def device_memory(device: str) -> int:
    """Return the bytes to plan with: on a GPU, free and PyTorch-reserved memory; on a CPU, all of the machine's RAM."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory(device: str) -> int:
    """Return the most bytes used so far: of the GPU's memory by torch, or on a CPU of the machine's by this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def return_freed_memory() -> None:
    """From now on, let the C library return large blocks to the system as soon as they are freed (glibc only).

    By default it keeps freed blocks of up to 32 MB for later, and small blocks between them make many of them useless.
    With that, two steps of the profile qwen-cpu took 7.5 GiB with Qwen2.5-Coder-0.5B, and 4.9 with this setting, in the
    same time.
    """
    with suppress(OSError, AttributeError):  # Another C library has no mallopt, or ignores it.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def check_memory(memory: TrainingMemory, available: int) -> None:
    """Raise MemoryNeededError, which names the settings to change, if `memory` does not fit into `available` bytes."""
    usable = USABLE * available
    if memory.peak <= usable:
        return
    fixed = sum(memory.lasting.values()) + memory.learning["gradients"]
    if fixed > usable:
        way_out = f"weights, gradients and optimizer alone take {fixed / GIB:.1f} GiB; take a smaller model"
    elif sum(memory.learning.values()) > sum(memory.sampling.values()):
        way_out = (
            "learning takes the most; set activation_checkpointing=True, or lower per_device_train_batch_size or "
            "max_completion_length"
        )
    else:
        way_out = "sampling takes the most; lower prompts_per_step, per_device_eval_batch_size or max_completion_length"
    raise MemoryNeededError(
        f"This run needs {memory.peak / GIB:.1f} GiB, but only {usable / GIB:.1f} of this device's "
        f"{available / GIB:.1f} GiB are usable: {way_out}."
    )


def _empty_model(config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
