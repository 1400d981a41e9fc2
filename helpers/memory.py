"""The memory a training run needs, in bytes, computed from the architecture before any weight is loaded.

Weights, gradients and optimizer are exact; activations and the KV cache follow the layers of Llama and Qwen2 and hold
for full-length completions, the worst case. What a GPU really used has to be measured.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from helpers.policy import load_config, load_tokenizer, tokenize_prompt
from helpers.problems import Problem, prompt_of
from helpers.profiles import Settings
from helpers.runtime import CourseError

FP32, HALF = 4, 2  # bytes of a number
GIB = 2**30
USABLE = 0.9  # share of a device's memory to plan with; the rest goes to fragmentation and to what is not counted
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768  # TRL 1.16: the part of the logits that exists at one time in training
SAMPLING_LOGITS = 4  # copies while a token is drawn: logits, divided by the temperature, probabilities, their sum


class MemoryNeededError(CourseError):
    """A run that does not fit into the device's memory; the message names a setting to change."""


def model_states(
    parameters: int,
    *,
    critic: bool = False,
    reward_model: bool = False,
    reference: bool = False,
    frozen_bytes: int = HALF,
    adapter: int = 0,
) -> dict[str, int]:
    """Bytes of the models alone, by part, where each model has `parameters` weights; 16 bytes per trained weight.

    A trained weight takes 4 bytes in float32, its gradient 4, AdamW's two moments 8 (arXiv 1910.02054, section 3.1,
    counts 16 too, split otherwise). A frozen one takes `frozen_bytes`: 2 in bf16; TRL loads a reference in float32, 4.
    The critic, PPO's value model, is trained. With `adapter` weights of LoRA only they are trained, on a frozen base
    which is its own reference.
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
    """Number of weights of the model that `config` describes; tied weights count once. Nothing is allocated."""
    return _empty_model(config).num_parameters()


def lora_parameters(config: PretrainedConfig, rank: int) -> int:
    """Number of weights LoRA trains on every linear layer but the output's: rank * (inputs + outputs) each."""
    model = _empty_model(config)
    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    head = model.get_output_embeddings()
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers if layer is not head)


def kv_cache(config: PretrainedConfig, tokens: int, number_bytes: int = FP32) -> int:
    """Bytes of the keys and values that generation keeps for `tokens` tokens, all sequences together.

    Weights in float32 under autocast keep them in float32: the rotation of the keys takes the dtype of the residual
    stream (read and run in transformers 5.23). A model held in bf16 keeps half of that.
    """
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * tokens * number_bytes


def full_logits(config: PretrainedConfig, tokens: int, copies: int = 3) -> int:
    """Bytes of float32 logits for `tokens` tokens where a loss makes them all at once, as plain PyTorch does.

    Three copies live in backward: the logits, their log-softmax, and its gradient. TRL 1.16 makes them in tiles
    and keeps none (`trl/kernels/chunked_logprob.py`).
    """
    return FP32 * copies * config.vocab_size * tokens


def activations(config: PretrainedConfig, tokens: int, length: int, half: bool, checkpointing: bool) -> int:
    """Bytes kept for backward by the layers, for `tokens` tokens in sequences of `length`.

    Per token and layer, of hidden size H and intermediate size I: under autocast 34 H + 8 I, in float32 40 H + 16 I
    (counted from the tensors that autograd saves in Qwen2), the attention's mask and its log-sums. Checkpointing keeps
    4 H and computes one layer anew at a time.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    wide = 34 * hidden + 8 * inner + HALF * length if half else 40 * hidden + 16 * inner + FP32 * length
    layer = wide + FP32 * (config.num_attention_heads + 2)
    layers = config.num_hidden_layers
    return tokens * (layers * FP32 * hidden + layer if checkpointing else layers * layer)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by part: what lasts through the run, and what comes and goes with sampling and with learning."""

    lasting: dict[str, int]
    sampling: dict[str, int]
    learning: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes at the worst moment: sampling and learning take turns."""
        return sum(self.lasting.values()) + max(sum(self.sampling.values()), sum(self.learning.values()))


def training_memory(settings: Settings, config: PretrainedConfig, prompt_tokens: int) -> TrainingMemory:
    """What a GRPO run with these settings needs where the longest prompt has `prompt_tokens` tokens.

    Counted as TRL 1.16 runs it: float32 weights, the matrices once more in half precision under autocast, no full
    logits in training, and the gradient of the LM head once more while it is made.
    """
    parameters, half = count_parameters(config), settings.precision != "fp32"
    states = model_states(parameters, reference=settings.beta > 0, frozen_bytes=FP32)
    gradients = states.pop("gradients")
    number = HALF if half else FP32
    copies = {"half-precision copies": HALF * parameters} if half else {}
    length = prompt_tokens + settings.max_completion_length
    rows = max(settings.completions_per_step, settings.per_device_eval_batch_size)
    tokens = settings.micro_batch * length
    prefill = rows * prompt_tokens * (4 * FP32 * config.hidden_size + 3 * number * config.intermediate_size)
    tile = min(tokens, TILE_TOKENS) * min(config.vocab_size, TILE_VOCABULARY) * number
    return TrainingMemory(
        lasting=states,
        sampling=copies
        | {
            "KV cache": kv_cache(config, rows * length),
            "logits": SAMPLING_LOGITS * FP32 * config.vocab_size * rows,
            "activations": prefill,
        },
        learning=copies
        | {
            "gradients": gradients,
            "LM head gradient": FP32 * config.hidden_size * (config.vocab_size + tokens),
            "logits": tile,
            "activations": activations(config, tokens, length, half, settings.activation_checkpointing),
        },
    )


def plan_memory(settings: Settings, problems: Sequence[Problem]) -> TrainingMemory:
    """What this run needs on its device, before the weights are loaded; raises MemoryNeededError as `check_memory`."""
    tokenizer = load_tokenizer(settings.model)
    prompts = [prompt_of(problem, settings.conversational) for problem in problems]
    longest = max(len(tokenize_prompt(tokenizer, prompt)) for prompt in prompts)
    memory = training_memory(settings, load_config(settings.model), longest)
    check_memory(memory, device_memory(settings.device), settings)
    return memory


def device_memory(device: str) -> int:
    """Bytes this process can use: of a GPU what is free or already its own, of a CPU all that the machine has."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(memory: TrainingMemory, available: int, settings: Settings) -> None:
    """Raise MemoryNeededError, with the setting to change, where `memory` is more than the usable part of `available`.

    `available` in bytes, as from `device_memory`.
    """
    usable = USABLE * available
    if memory.peak <= usable:
        return
    raise MemoryNeededError(
        f"This run needs {memory.peak / GIB:.1f} GiB, and of the {available / GIB:.1f} GiB here {usable / GIB:.1f} can "
        f"be planned with: {_way_out(memory, usable, settings)}."
    )


def _way_out(memory: TrainingMemory, usable: float, settings: Settings) -> str:
    room = usable - sum(memory.lasting.values())
    learning, sampling = sum(memory.learning.values()), sum(memory.sampling.values())
    fixed = learning - memory.learning["activations"] - memory.learning["logits"]
    if fixed > room:
        return f"weights, gradients and optimizer alone take {(usable - room + fixed) / GIB:.1f}; take a smaller model"
    if learning > room and not settings.activation_checkpointing:
        return "set activation_checkpointing=True"
    if learning > room and settings.micro_batch > 1:
        return f"lower per_device_train_batch_size (now {settings.micro_batch})"
    if sampling > room and settings.per_device_eval_batch_size > settings.completions_per_step:
        return f"lower per_device_eval_batch_size (now {settings.per_device_eval_batch_size})"
    if sampling > room and settings.prompts_per_step > 1:
        return f"lower prompts_per_step (now {settings.prompts_per_step})"
    return f"lower max_completion_length (now {settings.max_completion_length})"


def _empty_model(config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
