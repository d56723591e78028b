"""Rank correlations find what goes together, and not what has a common cause."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from husai import circuits, ranks
from husai.similarity import unit_rows

D = 40


def features(rows: torch.Tensor, alignment: torch.Tensor) -> circuits.Features:
    """Return features of which rows and alignment matter alone."""
    none = torch.zeros(len(rows))
    return circuits.Features(
        unit_rows(rows), alignment, *[none] * 4, torch.zeros(len(rows), 2).long(), none, none, 0.0, 0.0
    )


def draw(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def test_a_partial_rank_correlation_takes_common_causes_away() -> None:
    draw = np.random.default_rng(0)
    cause, x, y = draw.normal(size=(3, 400))
    assert ranks.partial_spearman(x, y + x) == pytest.approx(spearmanr(x, x + y).statistic)
    assert ranks.partial_spearman(x + 3 * cause, y + 3 * cause) > 0.8
    assert abs(ranks.partial_spearman(x + 3 * cause, y + 3 * cause, [cause])) < 0.15
    assert ranks.partial_spearman(x + 3 * cause, x + 3 * cause + 0.1 * y, [cause]) > 0.8
    assert ranks.partial_spearman(np.ones(5), np.arange(5.0)) == 0.0
    with pytest.raises(ValueError, match="3 or more"):
        ranks.partial_spearman(np.ones(2), np.ones(2))


def test_replication_is_told_by_alignment_only_where_aligned_features_return() -> None:
    aligned = torch.cat([torch.linspace(0.6, 0.9, 20), torch.linspace(0.1, 0.4, 20)])
    found = [features(torch.cat([draw(20, 0), draw(20, 10 + i)]), aligned) for i in range(4)]
    scores = ranks.replication(found)
    assert scores.shape == (4, 4) and np.allclose(scores, scores.T)
    assert ranks.predicts([found]).low > 0.5
    assert ranks.elsewhere(found)[:20].min() > 0.99 > ranks.elsewhere(found)[20:].max()
    noise = [features(draw(40, 50 + i), aligned) for i in range(4)]
    assert abs(ranks.predicts([noise]).value) < 0.2
    assert ranks.predicts([found], [found]).value == 0
    assert ranks.predicts([found], [noise]).low > 0.4
    others = [features(torch.cat([draw(20, 10 + i), draw(20, 0)]), aligned) for i in range(4)]
    assert ranks.predicts([others]).high < 0, "the features that return are those that are not aligned"
    with pytest.raises(ValueError, match="3 or more"):
        ranks.replication([features(draw(2, i), aligned[:2]) for i in range(3)])


def test_across_conditions_a_setting_is_told_from_what_goes_with_it() -> None:
    draw = np.random.default_rng(1)
    setting = np.array([0.0, 5.0, 10.0])
    recovered, agreement = (setting + draw.normal(size=(6, 3)) for _ in range(2))
    found = ranks.recovery_with_agreement(recovered.T, agreement.T)
    assert found["plain"].value > 0.7 and found["plain"].n == 6
    assert found["within"].low < 0 < found["within"].high
    same = ranks.recovery_with_agreement(recovered.T, recovered.T)
    assert same["within"].value == pytest.approx(1)
    with pytest.raises(ValueError):
        ranks.recovery_with_agreement(recovered[:2].T, agreement[:2].T)
