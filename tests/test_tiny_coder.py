"""The bundled problems and model: sharp tests, a clean split, the tokens of pre-training, a base that can learn."""

import ast
import random
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.evaluation import evaluate
from helpers.policy import load_policy
from helpers.problems import DATA, TINY_PATH, load_problems, split_problems
from helpers.tiny_coder import __main__ as command
from helpers.tiny_coder.build import (
    build_bundle,
    canonical_function,
    corpus_specifications,
    differing,
    function_of,
    outcomes,
    shape,
)
from helpers.tiny_coder.inputs import random_arguments
from helpers.tiny_coder.mutants import mutants
from helpers.tiny_coder.pretrain import (
    Recipe,
    collate,
    corpus_of,
    document,
    token_ids,
    train_tokenizer,
)

MODEL = DATA / "tiny_coder"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle():
    return build_bundle()


@pytest.fixture(scope="module")
def corpus(bundle):
    return corpus_of(corpus_specifications([spec for _, spec in bundle.held_out]))


@pytest.fixture(scope="module")
def both_parts():
    return split_problems(load_problems("tiny"))


def source_of(problem):
    return problem.prompt + problem.canonical_solution


def modal_body(spec):
    """Return the body with every operator in its most frequent form: what greedy decoding should write."""
    return spec.assemble([max(slot.forms(), key=lambda form: form[1])[0] for slot in spec.slots])


def inputs_for(kinds, count, seed):
    generator = random.Random(f"{seed} {kinds}")
    return [random_arguments(kinds, generator) for _ in range(count)]


def passes(problem, source):
    """Grade in this process. Only for programs that this project wrote."""
    namespace = {}
    try:
        exec(problem.test, namespace)
        namespace["check"](function_of(source, problem.entry_point))
    except Exception:
        return False
    return True


def test_the_committed_problems_are_what_the_command_makes(bundle):
    made = [problem for part in (bundle.train, bundle.held_out) for problem, _ in part]
    assert load_problems(TINY_PATH) == made


def test_there_are_enough_problems_of_enough_families(bundle):
    assert len(bundle.train) >= 1500 and len(bundle.held_out) >= 164
    for part in (bundle.train, bundle.held_out):
        assert len({spec.family for _, spec in part}) >= 8


def test_every_canonical_solution_passes(both_parts):
    assert [p.task_id for part in both_parts for p in part if not passes(p, source_of(p))] == []


def test_no_held_out_problem_is_a_training_problem_in_disguise(bundle):
    """No held-out problem has the function of a training problem (on 500 random inputs), nor its operators."""
    fingerprints, shapes = [], []
    for part in (bundle.train, bundle.held_out):
        fingerprints.append(set())
        shapes.append(set())
        for problem, spec in part:
            results = outcomes(function_of(source_of(problem), spec.name), inputs_for(spec.kinds, 500, "split"))
            fingerprints[-1].add((spec.kinds, repr(results)))
            shapes[-1].add(shape(source_of(problem)))
        assert len(fingerprints[-1]) == len(part), "two problems of one part are the same function"
    assert not fingerprints[0] & fingerprints[1]
    assert not shapes[0] & shapes[1]


def test_nothing_held_out_is_in_the_pretraining_corpus(bundle, corpus):
    """The corpus has neither the operators of a held-out problem nor another program for the same function."""
    held_shapes = {shape(source_of(problem)) for problem, _ in bundle.held_out}
    held_fingerprints = {
        (spec.kinds, repr(outcomes(canonical_function(spec), inputs_for(spec.kinds, 500, "corpus"))))
        for _, spec in bundle.held_out
    }
    members = [pair for family in corpus.values() for pair in family]
    assert len(members) > 10_000
    for spec, function in random.Random(0).sample(members, 4000):
        assert shape(f"def {spec.name}({', '.join(spec.arguments)}):\n{spec.canonical_body()}") not in held_shapes
        assert (spec.kinds, repr(outcomes(function, inputs_for(spec.kinds, 500, "corpus")))) not in held_fingerprints


def test_shape_sees_through_constants_and_names_and_nothing_else():
    first = "def f(xs):\n    '''A.'''\n    return sum(x * 2 for x in xs if x > 3)\n"
    renamed = "def g(ys):\n    '''B.'''\n    return sum(y * 9 for y in ys if y > 7)\n"
    assert shape(first) == shape(renamed)
    for changed in (("sum", "max"), (">", ">="), ("x * 2", "2 * x"), ("x * 2", "x + 2")):
        assert shape(first) != shape(first.replace(*changed))


def test_the_tests_catch_single_operator_swaps(bundle):
    """At least 99.5% of the single-operator swaps fail, counting those that differ on one of 1,000 random inputs."""
    caught = total = 0
    for problem, spec in [*bundle.train, *bundle.held_out]:
        inputs = inputs_for(spec.kinds, 1000, "sharp")
        right = outcomes(function_of(source_of(problem), spec.name), inputs)
        for mutant in mutants(source_of(problem)):
            function = function_of(mutant, spec.name)
            # Try growing slices of the inputs, because most mutants differ on one of the first five.
            differs = any(
                differing(right[a:b], outcomes(function, inputs[a:b])) for a, b in ((0, 5), (5, 50), (50, 1000))
            )
            if differs:
                total += 1
                caught += not passes(problem, mutant)
    print(f"\nsingle-operator swaps caught: {caught} of {total} ({caught / total:.3%})")
    assert total > 20_000
    assert caught / total >= 0.995


def test_no_constant_passes_a_problem(both_parts):
    """Neither a usual constant nor any answer that a problem's own asserts expect passes all asserts of a problem."""
    usual = [None, False, True, 0, 1, -1, 2, 0.0, "", "a", [], [0], (), {}, set()]
    for problem in [*both_parts[0], *both_parts[1]]:
        asserts = [node for node in ast.walk(ast.parse(problem.test)) if isinstance(node, ast.Assert)]
        expected = [ast.literal_eval(one.test.comparators[0]) for one in asserts]
        assert len(expected) >= 8
        namespace = {}
        exec(problem.test, namespace)
        for constant in [*usual, *expected]:
            with pytest.raises(AssertionError):
                namespace["check"](lambda *_, constant=constant: constant)


def test_mutants_change_one_operator_each():
    found = mutants("def f(xs, k):\n    return [x + 1 for x in xs if not x < k and x in xs]\n")
    joined = "\n".join(found)
    for part in ("x - 1", "x * 1", "x >= k", "x == k", "not x < k or", "if x < k and", "x not in xs"):
        assert part in joined
    assert len(found) == len(set(found)) == 6 + 5 + 1 + 1 + 1
    assert any("continue" in text for text in mutants("for x in xs:\n    break\n"))


def test_misconceptions_are_systematic(bundle):
    """The corpus writes some operators wrong most of the time, so greedy decoding is wrong there too."""
    modal = [passes(problem, problem.prompt + modal_body(spec)) for problem, spec in bundle.held_out]
    assert 0.25 <= sum(modal) / len(modal) <= 0.5
    for _, spec in bundle.train[::100]:
        for slot in spec.slots:
            assert sum(share for _, share in slot.forms()) == pytest.approx(1.0)


def test_saved_tokenizer_gives_the_tokens_of_training(corpus):
    trained = train_tokenizer(corpus, Recipe())
    loaded = AutoTokenizer.from_pretrained(MODEL)
    generator = random.Random(7)
    for _ in range(500):
        prompt, body = document(corpus, generator)
        assert token_ids(loaded, prompt, body) == token_ids(trained, prompt, body)
        assert loaded.decode(loaded(prompt)["input_ids"]) == prompt
        assert loaded(prompt)["input_ids"] == token_ids(trained, prompt, body)[0], "AutoTokenizer adds tokens"


def test_prompt_and_body_are_tokenized_apart(both_parts):
    """Pre-training tokenizes a prompt as generation does, even if tokens of the joined text would span the boundary."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompt_ids, body_ids = token_ids(tokenizer, "f(", "x)")
    assert prompt_ids == tokenizer("f(")["input_ids"]
    assert prompt_ids + body_ids[:-1] != tokenizer("f(x)")["input_ids"]
    assert body_ids[-1] == tokenizer.eos_token_id
    for problem in both_parts[0][::40]:
        assert token_ids(tokenizer, problem.prompt, "")[0] == tokenizer(problem.prompt)["input_ids"]


def test_only_the_body_and_its_end_are_learned():
    ids, attention, learned = collate([([5, 6, 7], [8, 9]), ([5], [8])], pad_id=0)
    assert ids.tolist() == [[5, 6, 7, 8, 9], [5, 8, 0, 0, 0]]
    assert attention.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert learned.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]


def test_model_is_a_small_qwen2_that_loads_as_any_other():
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    assert model.config.model_type == "qwen2"
    weights = sum(path.stat().st_size for path in Path(MODEL).glob("*.safetensors"))
    assert 0 < weights <= 8_000_000
    assert model.config.eos_token_id == AutoTokenizer.from_pretrained(MODEL).eos_token_id


def test_base_model_leaves_room_to_learn(both_parts):
    """The base model is too seldom correct, greedy and sampled; eight samples contain a correct answer; few exit."""
    scores = evaluate(*load_policy(MODEL), both_parts[1], num_samples=8, max_completion_length=56)
    summary = scores.summary()
    completions = [text for texts in scores.completions for text in texts]
    cheats = sum(bool(command.CHEAT.search(text)) for text in completions) / len(completions)
    print("\n" + ", ".join(f"{name} {summary[name]:.3f}" for name in summary["interval"]) + f", cheats {cheats:.2%}")
    assert 0.25 <= summary["greedy"] <= 0.5
    assert 0.25 <= summary["pass@1"] <= 0.5
    assert summary["pass@8"] >= 0.9
    assert 0.01 <= cheats <= 0.03


def test_command_refuses_a_folder_in_use(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert command.main(["--output", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert re.search(r"^\w", (tmp_path / "mine.txt").read_text())
