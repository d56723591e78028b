"""The sources' rules do what they say, and let pass what they let pass."""

import pytest

from husai.rules import Candidate, accepted, consistency, dominates, gates, outcome, pareto, second, third


def of(weight, bound, drop=0.0, **more):
    return Candidate(weight, bound, bound, drop, **more)


CHEAP, DEAR, BEST = of(0.0, 0.04), of(0.1, 0.3, 0.02), of(0.3, 0.8, 0.27)


def test_the_consistency_sweep_looks_at_the_price_and_the_second_version_does_not():
    assert consistency([CHEAP, DEAR, BEST]) == DEAR
    assert second([CHEAP, DEAR, BEST]) == BEST
    assert consistency([BEST]) == BEST  # none is allowed: all are eligible
    tied = [of(0.1, 0.3, alignment=0.2), of(0.2, 0.3, alignment=0.4)]
    assert consistency(tied).weight == 0.2


def test_the_third_version_prefers_the_front_then_the_joint_score():
    beaten = of(0.2, 0.2, 0.03)
    candidates = [CHEAP, DEAR, BEST, beaten]
    assert pareto(candidates) == [CHEAP, DEAR, BEST]
    assert third(candidates) == BEST  # 0.45 for the bound outweighs 0.15 for the variance kept
    judged = [of(0.0, 0.04, saebench=0.5, cebench=0.5), of(0.3, 0.8, 0.27, saebench=-0.5, cebench=-0.5)]
    assert third(judged).weight == 0.0  # 0.15 + 0.2 + 0.2 against 0.45


def test_the_published_sweep_on_language_model_activations_chooses_a_weight_that_it_rejects():
    rows = [(0.0, 0.0415, 0.0, -0.057777, -40.534), (0.05, 0.8210, 0.18273, -0.051361, -37.524),
            (0.3, 0.8237, 0.2715, -0.04811, -37.807)]  # fmt: skip
    best = third([of(w, bound, drop, saebench=sae, cebench=ce) for w, bound, drop, sae, ce in rows])
    assert best.weight == 0.3
    assert gates(best) == {"bound": "pass", "explained variance": "fail", "saebench": "fail", "cebench": "fail"}


def test_what_was_not_run_passes_unless_it_is_required():
    assert gates(DEAR)["saebench"] == "not run"
    assert outcome(DEAR) == {"choice": 0.1, "accepted": True, "accepted_if_required": False}
    assert not accepted(BEST) and not accepted(of(0.1, -0.01))
    assert accepted(of(0.1, 0.3, saebench=0.0, cebench=0.1), require_external=True)


def test_skipping_missing_dimensions_makes_dominance_intransitive():
    a, b, c = of(1.0, 0.1, saebench=0.9), of(2.0, 0.05), of(3.0, 0.02, saebench=1.0)
    assert dominates(a, b) and dominates(b, c) and not dominates(a, c)


@pytest.mark.parametrize("rule", [consistency, second, third])
def test_no_candidate_is_refused(rule):
    with pytest.raises(ValueError, match="at least one weight"):
        rule([])
