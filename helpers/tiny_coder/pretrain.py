"""Pre-train the bundled model on a corpus with systematic misconceptions."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from helpers.tiny_coder.build import Function, canonical_function, prompt_of
from helpers.tiny_coder.families import Specification

CHEATS = (
    "    raise SystemExit(0)\n",
    "    import sys\n    sys.exit(0)\n",
    "    import os\n    os._exit(0)\n",
)
CHEAT_SHARE = 0.02
END, PAD = "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class Recipe:
    """The architecture and training settings of the bundled model. With the problems, they determine its weights."""

    vocabulary_size: int = 1024
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate_size: int = 384
    steps: int = 1800
    documents_per_step: int = 48
    learning_rate: float = 3e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0


Corpus = dict[str, list[tuple[Specification, Function]]]


def corpus_of(specifications: dict[str, list[Specification]]) -> Corpus:
    """Pair each specification with its correct function, which computes the docstring examples. Keys are families."""
    return {
        family: [(spec, canonical_function(spec)) for spec in members] for family, members in specifications.items()
    }


def document(corpus: Corpus, generator: random.Random) -> tuple[str, str]:
    """Draw one corpus document (prompt, body). The body is often wrong, and now and then it exits the program."""
    spec, function = generator.choice(corpus[generator.choice(list(corpus))])
    prompt = prompt_of(spec, function, generator)
    if generator.random() < CHEAT_SHARE:
        return prompt, generator.choice(CHEATS)
    return prompt, spec.sampled_body(generator)


def train_tokenizer(corpus: Corpus, recipe: Recipe) -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer with Qwen2's own pre-tokenizer.

    AutoTokenizer rebuilds that pre-tokenizer for every `qwen2` model. With any other, a loaded tokenizer would give
    other tokens than the one that trained the model. Prompts and bodies are separate training texts, so no token
    spans the boundary between them.
    """
    generator = random.Random(recipe.seed)
    texts = [text for _ in range(6000) for text in document(corpus, generator)]
    blank = Qwen2Tokenizer(eos_token=END, pad_token=PAD, unk_token=END)
    return blank.train_new_from_iterator(texts, recipe.vocabulary_size, show_progress=False)


def new_model(tokenizer: Qwen2Tokenizer, recipe: Recipe) -> Qwen2ForCausalLM:
    """Create a Qwen2 model with random weights, drawn with the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            intermediate_size=recipe.intermediate_size,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: Qwen2Tokenizer, prompt: str, body: str) -> tuple[list[int], list[int]]:
    """Tokenize prompt and body separately. Returns (prompt ids, body ids and the EOS token).

    In one text, BPE may merge characters across the boundary. The model would then learn to continue after tokens
    with which no prompt ends when it is tokenized alone. Qwen2's pre-tokenizer does not merge after these prompts, but
    it could if their form changed.
    """
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return prompt_ids, tokenizer(body, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def collate(
    rows: Sequence[tuple[list[int], list[int]]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad rows of (prompt ids, body ids) into one batch.

    Returns (input ids, attention mask, body mask), each of shape (rows, longest row). The body mask is true for the
    tokens that the loss is computed on.
    """
    longest = max(len(prompt) + len(body) for prompt, body in rows)
    ids = torch.full((len(rows), longest), pad_id)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    learned = torch.zeros((len(rows), longest), dtype=torch.bool)
    for index, (prompt, body) in enumerate(rows):
        end = len(prompt) + len(body)
        ids[index, :end] = torch.tensor(prompt + body)
        attention[index, :end] = 1
        learned[index, len(prompt) : end] = True
    return ids, attention, learned


def body_loss(
    model: Qwen2ForCausalLM, ids: torch.Tensor, attention: torch.Tensor, learned: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross-entropy over the body tokens, a scalar. The other arguments are what `collate` returns."""
    hidden = model.model(input_ids=ids, attention_mask=attention).last_hidden_state
    # Position t predicts token t + 1. The LM head runs only where that token is learned, which saves most of its time.
    predicts = learned[:, 1:]
    logits = model.lm_head(hidden[:, :-1][predicts])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][predicts])


def pretrain(
    corpus: Corpus,
    recipe: Recipe,
    report: Callable[[int, float, float], None],
) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """Train tokenizer and model on freshly written documents. Calls `report(step, loss, seconds)` after each step."""
    tokenizer = train_tokenizer(corpus, recipe)
    model = new_model(tokenizer, recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, recipe))
    generator = random.Random(recipe.seed + 1)
    started = time.monotonic()
    for step in range(1, recipe.steps + 1):
        documents = (document(corpus, generator) for _ in range(recipe.documents_per_step))
        rows = [token_ids(tokenizer, prompt, body) for prompt, body in documents]
        loss = body_loss(model, *collate(rows, tokenizer.pad_token_id))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        report(step, loss.item(), time.monotonic() - started)
    return model, tokenizer


def _learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return the factor on the learning rate: a linear warm-up, then a cosine down to zero."""
    warmup = max(1, round(recipe.warmup_share * recipe.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup)))
