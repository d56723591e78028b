"""How often a conclusion comes back: verdicts, choices and features whose agreement is known."""

import numpy as np
import pytest
import torch

from husai.pairs import returns
from husai.tasks import generator


def test_the_exact_interval_is_clopper_and_pearsons() -> None:
    three = returns.exact(3, 3)
    assert (three.value, three.high) == (1.0, 1.0) and three.low == pytest.approx(0.025 ** (1 / 3))
    half = returns.exact(5, 10)
    assert (half.low, half.high) == (pytest.approx(0.18709, abs=1e-4), pytest.approx(0.81291, abs=1e-4))
    assert returns.exact(0, 4).low == 0.0
    with pytest.raises(ValueError, match="k, n"):
        returns.exact(4, 3)


def test_a_verdict_that_always_comes_back_agrees_everywhere() -> None:
    found = returns.verdicts(np.ones((3, 3), bool))
    assert found.sae.value == found.model.value == found.holds.value == 1
    assert found.holds.low == pytest.approx(0.025 ** (1 / 3)), "three models say no more than that"


def test_a_verdict_that_a_model_decides_comes_back_within_it_and_not_between() -> None:
    found = returns.verdicts([[True] * 3, [False] * 3, [True] * 3])
    assert found.sae.value == 1 and found.model.value == pytest.approx(1 / 3)
    assert found.holds.value == pytest.approx(2 / 3)
    assert set(found.row()) == {"another SAE seed", "another model", "models of which it holds"}


def test_without_saes_there_is_nothing_to_say_of_their_seeds() -> None:
    found = returns.verdicts([[True], [True], [False]])
    assert found.sae is None and found.row()["another SAE seed"] == "—"
    labels = returns.identities(returns.same_labels([5, 5, 2]))
    assert labels.model.value == pytest.approx(1 / 3) and labels.holds is None


def test_features_are_the_same_by_decoder_within_a_model_and_by_activation_between() -> None:
    draw = generator(0, "features")
    signals = torch.randn(3, 3, 200, generator=draw)
    signals[1] = signals[0]
    rows = torch.randn(3, 3, 16, generator=draw)
    rows[2, 1] = rows[2, 0] * 3
    same = returns.same_features(rows, signals)
    assert same[0, 1, 1, 1] == same[1, 2, 0, 2] == 1 and same[0, 0, 2, 0] == 0
    assert same[2, 0, 2, 1] == 1 and same[0, 0, 0, 1] == 0, "within a model signals do not count"
    found = returns.identities(same)
    assert found.model.value == pytest.approx(1 / 3 / 3) and found.sae.value == pytest.approx(1 / 9)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="2 models"):
        returns.verdicts(np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="2 SAE seeds"):
        returns.verdicts(np.ones((3, 2), bool))
