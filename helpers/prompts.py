"""From a problem to the text that a model continues, for any causal language model.

- "chat": the problem in a user's message, through the model's chat template. The answer is a fenced block.
- "prefill": a short user's message, and the model's answer is begun with the fence and the problem's text. The model
  writes the body alone: about 33 tokens instead of 100 on the bundled problems with Qwen2.5-Coder-0.5B-Instruct.
- "plain": the problem's text itself, for base models.
"""

from transformers import PreTrainedTokenizerBase

from helpers.problems import Problem, prompt_of
from helpers.runtime import CourseError

PROMPT_MODES = ("chat", "prefill", "plain")
SHORT_INSTRUCTION = "Complete this Python function. Answer with the code and nothing else."


def choose_prompt_mode(tokenizer: PreTrainedTokenizerBase, asked: str | None = None) -> str:
    """Return the mode that was asked for; with None, "chat" for a tokenizer with a chat template, else "plain".

    Raises CourseError for an unknown mode, or for one that needs a chat template if there is none.
    """
    if asked is None:
        return "chat" if tokenizer.chat_template else "plain"
    if asked not in PROMPT_MODES:
        raise CourseError(f'There is no prompt mode "{asked}". Choose one of: {", ".join(PROMPT_MODES)}.')
    if asked != "plain" and not tokenizer.chat_template:
        raise CourseError(
            f'The prompt mode "{asked}" needs a chat template, and this model has none: use --prompt plain.'
        )
    return asked


def prompt_text(problem: Problem, tokenizer: PreTrainedTokenizerBase, mode: str) -> str:
    """Return the text that the model continues, with the chat template already applied.

    It is the text of TRL's `prompt` column too: `tokenizer(text)` gives the tokens that the template gives, without a
    second BOS token. The completion follows `problem.prompt` in the modes "prefill" and "plain". Raises CourseError as
    `choose_prompt_mode` does.
    """
    mode = choose_prompt_mode(tokenizer, mode)
    if mode == "plain":
        return problem.prompt
    messages = prompt_of(problem, conversational=True)
    if mode == "prefill":
        messages = [{"role": "user", "content": SHORT_INSTRUCTION}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if mode == "prefill":
        text += "```python\n" + problem.prompt.rstrip("\n") + "\n"
    if tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(tokenizer.bos_token)
    return text
