"""Which features come back: planted ones do, drawn ones do not, and clusters count seeds."""

import pytest
import torch

from husai.consensus import (
    consensus,
    matched_shares,
    matches,
    mutual_neighbours,
    shares,
    stability,
    stable_share,
)
from husai.nulls import isotropic

D = 64


def planted(shared: list[int], total: int = 20) -> list[torch.Tensor]:
    """Return one dictionary a seed: feature j of a common pool in the first shared[j] seeds, random rows elsewhere."""
    pool, seeds = isotropic(len(shared), D, 99), 4
    found = []
    for seed in range(seeds):
        common = pool[[count > seed for count in shared]]
        rows = torch.cat([common, isotropic(total - len(common), D, seed)])
        found.append(rows[torch.randperm(total, generator=torch.Generator().manual_seed(seed))])
    return found


def test_stability_is_the_share_of_other_seeds_with_the_feature() -> None:
    found = planted([4, 4, 3, 2, 1])
    rows = stability(found)
    assert sorted(rows[0].tolist(), reverse=True)[:5] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])
    assert sorted(rows[3].tolist(), reverse=True)[:3] == pytest.approx([1, 1, 0])
    assert stable_share(found) == pytest.approx(sum([2 + 1, 2 + 1, 2 + 2 / 3, 2]) / 4 / 20)


def test_a_match_is_mutual() -> None:
    a = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows, columns = mutual_neighbours(a, b)
    assert (rows.tolist(), columns.tolist()) == ([0], [0]), "the second of a has a better rival"
    assert len(mutual_neighbours(a, -b)[0]) == 0 and len(mutual_neighbours(a, -b, signed=False)[0]) == 1
    assert len(mutual_neighbours(a, a, tau=1.0)[0]) == 0


def test_matches_are_symmetric_and_never_with_itself() -> None:
    found = matches(planted([4, 3, 2]))
    for i in range(4):
        assert not found[i][i].any()
        for j in range(4):
            assert found[i][j].sum() == found[j][i].sum()


def test_clusters_of_nearly_all_seeds() -> None:
    found = planted([4, 4, 3, 2, 1])
    nearly, all_seeds = consensus(found), consensus(found, least=4)
    assert (nearly.clusters, all_seeds.clusters, consensus(found, least=2).clusters) == (3, 2, 4)
    assert nearly.share == pytest.approx((4 + 4 + 3) / 80) and all_seeds.share == pytest.approx(8 / 80)
    assert consensus([isotropic(20, D, seed) for seed in range(4)]).clusters == 0
    assert consensus([found[0]] * 4, least=4).share == 1


def test_a_cluster_counts_seeds_and_not_features() -> None:
    """a1 - b - a2 cannot be: a match is one to one between two seeds; a chain over a third seed can."""
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0]))
    first, second, third = torch.stack([angles.cos(), angles.sin()], 1)
    found = [first[None], second[None], third[None]]
    assert consensus(found, tau=0.8, least=3).clusters == 1, "the ends are joined by the middle"
    assert consensus(found, tau=0.9).clusters == 0


def test_shares_carry_the_whole_value_and_an_interval_over_seeds() -> None:
    found = planted([4, 4, 3, 2, 1])
    both = shares(found)
    assert both["stable"].value == stable_share(found) and both["stable"].n == 4
    assert both["consensus"].value == consensus(found).share
    assert both["consensus"].low < both["consensus"].value < both["consensus"].high
    same = shares([found[0]] * 4)
    assert (same["consensus"].low, same["consensus"].high) == (1, 1)


def test_the_matched_share_is_blind_to_signs_and_to_nothing_else() -> None:
    a = isotropic(20, D, 0)
    half = torch.cat([-a[:10], isotropic(10, D, 1)])
    assert matched_shares([a, half.flip(0)], 0.7)[0, 1] == 0.5
    assert matched_shares([a, half], 0.7, signed=True)[0, 1] == 0
    assert matched_shares([a, a[:5]], 0.7)[0, 1] == 0.25, "of the larger"


def test_refusals() -> None:
    with pytest.raises(ValueError, match="least"):
        consensus(planted([4]), least=5)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        matches([isotropic(3, D, 0)])
