"""The losses on examples small enough for paper, and the KL estimators where the truth can be computed.

That they equal TRL's is tested in test_parity.py.
"""

import math

import pytest
import torch

from helpers.losses import LOSS_TYPES, aggregate, grpo_loss, importance_ratio, per_token_kl

POLICY = torch.tensor([0.6, 0.3, 0.1])
REFERENCE = torch.tensor([0.3, 0.3, 0.4])
TRUE_KL = sum(p * math.log(p / q) for p, q in zip(POLICY.tolist(), REFERENCE.tolist(), strict=True))

MASK = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
ADVANTAGES = torch.tensor([1.0, -1.0])
LOGPS = torch.full((2, 4), -1.0)


def loss(ratio, advantage, **options):
    """Loss, gradient with respect to the log-probability, and diagnostics of one token."""
    logps = torch.tensor([[math.log(ratio) - 1]], requires_grad=True)
    value, logged = grpo_loss(
        logps, torch.tensor([[-1.0]]), torch.tensor([float(advantage)]), torch.ones(1, 1), **options
    )
    return value.item(), torch.autograd.grad(value, logps)[0].item(), logged


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 1, -1.0, -1.0),
        (1.1, 1, -1.1, -1.1),
        (1.5, 1, -1.2, 0.0),  # far enough already: clipped
        (0.5, 1, -0.5, -0.5),  # on the wrong side: never clipped
        (1.5, -1, 1.5, 1.5),
        (0.5, -1, 0.8, 0.0),
    ],
)
def test_one_token_in_each_quadrant(ratio, advantage, value, gradient):
    found, slope, logged = loss(ratio, advantage)
    assert (found, slope) == (pytest.approx(value), pytest.approx(gradient))
    clipped = float(gradient == 0)
    assert logged["clip_ratio/region_mean"] == clipped
    assert logged["clip_ratio/high_mean"] == (clipped if advantage > 0 else 0)
    assert logged["clip_ratio/low_mean"] == (clipped if advantage < 0 else 0)


def test_clip_higher_moves_only_the_upper_bound():
    assert loss(1.25, 1)[1] == 0 and loss(1.25, 1, epsilon_high=0.28)[1] == pytest.approx(-1.25)
    assert loss(0.75, -1, epsilon_high=0.28)[1] == 0


def test_cispo_caps_the_weight_and_keeps_every_gradient():
    for ratio, weight in ((0.5, 0.5), (1.5, 1.5), (7.0, 5.0)):
        for advantage in (1, -1):
            value, slope, logged = loss(ratio, advantage, loss_type="cispo", epsilon_high=5.0)
            assert slope == pytest.approx(-weight * advantage)
            assert value == pytest.approx(-weight * advantage * (math.log(ratio) - 1))
            assert logged == {"cispo_clip_ratio": float(ratio > 5 and advantage > 0)}


@pytest.mark.parametrize(("advantage", "temperature"), [(1, 1.0), (-1, 1.05), (0, 1.05)])
def test_sapo_turns_each_gradient_down_softly_on_both_sides(advantage, temperature):
    for ratio in (0.2, 0.5, 1.0, 1.5, 7.0):
        value, slope, logged = loss(ratio, advantage, loss_type="sapo")
        gate = 1 / (1 + math.exp(-temperature * (ratio - 1)))
        assert value == pytest.approx(-advantage * 4 / temperature * gate, rel=1e-5)
        # The ratio's own slope in the log-probability is the ratio.
        assert slope == pytest.approx(-advantage * 4 * gate * (1 - gate) * ratio, rel=1e-4)
        assert logged == {}
    assert loss(1.0, advantage, loss_type="sapo")[1] == pytest.approx(-advantage)
    assert loss(1.5, 1, loss_type="sapo", sapo_temperature_pos=3.0)[0] == pytest.approx(-4 / 3 / (1 + math.exp(-1.5)))
    assert loss(1.5, -1, loss_type="sapo", sapo_temperature_neg=3.0)[0] == pytest.approx(4 / 3 / (1 + math.exp(-1.5)))


def test_the_normalisers_on_a_short_and_a_long_completion():
    losses = -ADVANTAGES[:, None].expand(2, 4)  # two tokens of -1, four of +1, the rest is padding
    expected = {"grpo": (-2 / 2 + 4 / 4) / 2, "bnpo": 2 / 6, "dapo": 2 / 6, "cispo": 2 / 6, "dr_grpo": 2 / (2 * 10)}
    expected["sapo"] = expected["grpo"]
    assert set(expected) == set(LOSS_TYPES)
    for loss_type, value in expected.items():
        assert aggregate(losses, MASK, loss_type, max_completion_length=10).item() == pytest.approx(value), loss_type
    assert aggregate(losses, MASK, "dapo", num_items_in_batch=8.0).item() == pytest.approx(2 / 8)


def test_padding_changes_nothing_whatever_stands_there():
    entropies = torch.rand(2, 4)
    options = {"max_completion_length": 10, "epsilon_high": 0.3, "beta": 0.1}
    for loss_type in LOSS_TYPES:
        for level in ("token", "sequence"):
            found = []
            for padding in (0.0, 5.0):
                logps = (torch.randn(2, 4, generator=torch.Generator().manual_seed(1)) + padding * (1 - MASK)).detach()
                found.append(
                    grpo_loss(
                        logps.requires_grad_(),
                        LOGPS,
                        ADVANTAGES,
                        MASK,
                        ref_logps=LOGPS,
                        entropies=entropies + padding * (1 - MASK),
                        loss_type=loss_type,
                        importance_sampling_level=level,
                        **options,
                    )
                )
                gradient = torch.autograd.grad(found[-1][0], logps)[0]
                assert (gradient[0, :2] != 0).any() and (gradient[0, 2:] == 0).all()
            assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    logps = torch.log(torch.tensor([[2.0, 0.5, 9.0, 9.0], [2.0, 2.0, 2.0, 2.0]]))
    ratio = importance_ratio(logps, torch.zeros(2, 4), MASK, "sequence")
    assert ratio.shape == (2, 1)
    assert ratio.flatten().tolist() == pytest.approx([1.0, 2.0])


def test_on_policy_the_value_is_near_zero_and_the_gradient_is_not():
    logps = torch.randn(2, 4, requires_grad=True)
    mask = torch.ones(2, 4)
    for loss_type in ("grpo", "bnpo", "dapo", "dr_grpo"):
        value, logged = grpo_loss(
            logps, logps.detach(), ADVANTAGES, mask, loss_type=loss_type, max_completion_length=10
        )
        assert value.item() == pytest.approx(0, abs=1e-7)
        assert torch.autograd.grad(value, logps)[0].abs().sum() > 0.1
        assert logged["clip_ratio/region_mean"] == 0


def test_a_completion_whose_mask_is_empty_counts_as_zero():
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    for level in ("token", "sequence"):
        value, _ = grpo_loss(LOGPS, LOGPS, ADVANTAGES, mask, loss_type="grpo", importance_sampling_level=level)
        assert value.item() == pytest.approx(-0.5)
        value, _ = grpo_loss(LOGPS, LOGPS, ADVANTAGES, 0 * mask, importance_sampling_level=level)
        assert value.item() == 0


# --- KL: exact expectations over three tokens ---


def expectation(estimator):
    return (POLICY * per_token_kl(POLICY.log(), REFERENCE.log(), estimator)).sum().item()


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    assert expectation("k1") == pytest.approx(TRUE_KL, abs=1e-6)
    assert expectation("k3") == pytest.approx(TRUE_KL, abs=1e-6)
    assert abs(expectation("k2") - TRUE_KL) > 0.01
    assert per_token_kl(POLICY.log(), REFERENCE.log(), "k1").min() < 0
    assert all(per_token_kl(POLICY.log(), REFERENCE.log(), name).min() >= 0 for name in ("k2", "k3"))


def expected_gradient(estimator, corrected):
    """Of beta times the KL term, in the logits, averaged exactly over what the policy samples; beta is 1."""
    logits = POLICY.log().requires_grad_()
    logps = logits.log_softmax(0)[:, None]
    losses = [
        grpo_loss(
            logps[token : token + 1],
            logps[token : token + 1].detach(),
            torch.zeros(1),
            torch.ones(1, 1),
            beta=1.0,
            ref_logps=REFERENCE.log()[token].view(1, 1),
            kl_estimator=estimator,
            use_bias_correction_kl=corrected,
        )[0]
        for token in range(3)
    ]
    return torch.autograd.grad((POLICY * torch.stack(losses)).sum(), logits)[0]


def true_gradient(kl):
    logits = POLICY.log().requires_grad_()
    return torch.autograd.grad(kl(logits.softmax(0)), logits)[0]


def test_which_estimators_have_the_gradient_of_the_kl():
    reverse = true_gradient(lambda p: (p * (p / REFERENCE).log()).sum())
    forward = true_gradient(lambda p: (REFERENCE * (REFERENCE / p).log()).sum())
    assert (reverse - forward).abs().max() > 0.05
    right = [("k2", False), ("k1", True), ("k3", True)]
    for estimator, corrected in right:
        assert torch.allclose(expected_gradient(estimator, corrected), reverse, atol=1e-6), estimator
    assert torch.allclose(expected_gradient("k1", False), torch.zeros(3), atol=1e-6)
    assert torch.allclose(expected_gradient("k3", False), forward, atol=1e-6)


def test_the_penalty_is_logged_with_its_correction_and_weighted_by_beta():
    ref = LOGPS - 0.5
    plain, _ = grpo_loss(LOGPS, LOGPS, ADVANTAGES, MASK)
    value, logged = grpo_loss(LOGPS, LOGPS, ADVANTAGES, MASK, beta=0.1, ref_logps=ref)
    k3 = math.exp(-0.5) + 0.5 - 1
    assert logged["kl"] == pytest.approx(k3, rel=1e-5)
    assert (value - plain).item() == pytest.approx(0.1 * k3, rel=1e-4)
    _, logged = grpo_loss(LOGPS, LOGPS - 1, ADVANTAGES, MASK, beta=0.1, ref_logps=ref)
    assert logged["kl"] == pytest.approx(math.e * k3)
    _, logged = grpo_loss(LOGPS, LOGPS - 1, ADVANTAGES, MASK, beta=0.1, ref_logps=ref, use_bias_correction_kl=False)
    assert logged["kl"] == pytest.approx(k3)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"loss_type": "ppo"}, "loss_type must be one of grpo, bnpo, dr_grpo, dapo, cispo, sapo, not 'ppo'"),
        ({"importance_sampling_level": "word"}, 'must be "token" or "sequence", not \'word\''),
        ({"beta": 0.1}, "needs ref_logps"),
        ({"beta": 0.1, "ref_logps": LOGPS, "kl_estimator": "k4"}, "not 'k4'"),
        ({"loss_type": "cispo"}, "caps the ratio at epsilon_high itself"),
        ({"loss_type": "dr_grpo"}, "pass it"),
        ({"advantages": torch.zeros(3)}, r"not \(2, 4\), \(2, 4\), \(3,\), \(2, 4\)"),
        ({"mask": torch.ones(2, 3)}, r"not .* \(2, 3\)"),
        ({"logps": torch.zeros(4)}, r"not \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, reason):
    given = {"logps": LOGPS, "old_logps": LOGPS, "advantages": ADVANTAGES, "mask": MASK} | wrong
    with pytest.raises(ValueError, match=reason):
        grpo_loss(**given)
