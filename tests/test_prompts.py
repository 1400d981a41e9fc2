import pytest
from chat_policies import save_chat_policy
from random_policy import arithmetic_problems, save_random_policy
from tokenizers import processors

from helpers.policy import load_tokenizer, tokenize_prompt
from helpers.problems import load_problems, prompt_of
from helpers.prompts import PROMPT_MODES, choose_prompt_mode, prompt_text
from helpers.rewards import passes_tests
from helpers.runtime import CourseError

ADD = arithmetic_problems()[0]


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    return load_tokenizer(save_chat_policy(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def base_tokenizer():
    return load_tokenizer("data/tiny_coder")


def with_bos(folder):
    """A tokenizer that puts a BOS token before every text, and whose chat template writes one too, as Llama's."""
    tokenizer = load_tokenizer(save_random_policy(folder))
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    return tokenizer


def test_a_chat_model_is_asked_in_a_message_and_a_base_model_continues(chat_tokenizer, base_tokenizer):
    assert choose_prompt_mode(chat_tokenizer) == "chat"
    assert choose_prompt_mode(base_tokenizer) == "plain"
    for mode in PROMPT_MODES:
        assert choose_prompt_mode(chat_tokenizer, mode) == mode


@pytest.mark.parametrize("mode", ["chat", "prefill"])
def test_a_mode_that_needs_a_template_is_refused_in_one_sentence_without_one(base_tokenizer, mode):
    with pytest.raises(CourseError, match="needs a chat template.*--prompt plain") as caught:
        prompt_text(ADD, base_tokenizer, mode)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_refused(chat_tokenizer):
    with pytest.raises(CourseError, match='no prompt mode "caht". Choose one of: chat, prefill, plain'):
        choose_prompt_mode(chat_tokenizer, "caht")


def test_the_three_texts(chat_tokenizer, base_tokenizer):
    assert prompt_text(ADD, base_tokenizer, "plain") == prompt_text(ADD, chat_tokenizer, "plain") == ADD.prompt
    chat = prompt_text(ADD, chat_tokenizer, "chat")
    assert chat.startswith("<|im_start|>user\n") and chat.endswith("```<|im_end|>\n<|im_start|>assistant\n")
    prefill = prompt_text(ADD, chat_tokenizer, "prefill")
    assert prefill.endswith("<|im_start|>assistant\n```python\n" + ADD.prompt)
    assert prefill.count(ADD.prompt) == 1 and len(prefill) < len(chat)


def test_the_text_has_the_templates_tokens_and_one_bos(chat_tokenizer, tmp_path):
    bos = with_bos(tmp_path)
    assert bos("x")["input_ids"][0] == bos.bos_token_id
    for tokenizer in (chat_tokenizer, bos):
        expected = tokenize_prompt(tokenizer, prompt_of(ADD, conversational=True))
        assert tokenizer(prompt_text(ADD, tokenizer, "chat"))["input_ids"] == expected
        prefill = tokenizer(prompt_text(ADD, tokenizer, "prefill"))["input_ids"]
        assert prefill.count(tokenizer.bos_token_id) == (tokenizer is bos)


def test_a_prefilled_answer_that_closes_its_fence_is_graded_as_the_body_alone():
    problems = load_problems("tiny")[::100]
    answers = [problem.canonical_solution.rstrip("\n") + "\n```\nThis function ..." for problem in problems]
    columns = {"test": [p.test for p in problems], "entry_point": [p.entry_point for p in problems]}
    columns["code_prompt"] = [p.prompt for p in problems]
    prompts = [problem.prompt for problem in problems]
    assert passes_tests(prompts=prompts, completions=answers, **columns) == [1.0] * len(problems)
