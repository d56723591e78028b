"""Features are sorted by what they were planted as, and chance is sorted into nothing."""

import pytest
import torch

from husai import plants
from husai.nulls import isotropic
from husai.unmatched import (
    ALPHA,
    KINDS,
    Side,
    bar,
    composition,
    drawn_inside,
    fire_together,
    matched,
    random_rows,
    share_inside,
    sort,
)

D = 48


@pytest.fixture(scope="module")
def tables():
    return plants.confusion([plants.synthetic(seed) for seed in range(2)], draws=500)


def test_every_planted_kind_is_recognised(tables):
    mean = tables.mean(0)
    for index, kind in enumerate(KINDS):
        assert mean[index, index] > 0.8, kind
    assert (abs(mean.sum(1) - 1) < 1e-6).all()
    assert mean[:-1, -1].max() < 0.1, "few of what is there are called absent"


def test_partners_are_recognised_as_long_as_they_are_nearer_than_sums_of_two():
    """Sums of two features have a cosine of about .8 with either here: at .92 all is found, at .80 less."""
    near, far = (plants.recognised(plants.known(noise, 3, draws=200))
                 for noise in (0.3, 0.5))  # fmt: skip
    assert min(share.value for share in near.values()) > 0.8
    assert far["matched"].value < 0.8 < far["absent"].value
    cosines = torch.cosine_similarity(*(side.rows[:12] for side in plants.synthetic(0, 0.5)[:2]))
    assert cosines.mean().item() == pytest.approx(1 / 1.25, abs=0.03)


def test_the_opposite_of_a_feature_is_no_orbit_mate_of_it():
    one = plants.synthetic(0)
    theirs = isotropic(30, one.x.shape[1], 9)
    kinds = sort(_side(-theirs, one.x), _side(theirs, one.x), one.x, 4, one.turns, draws=200).kinds
    assert (kinds == KINDS.index("orbit-mate")).sum() <= 1


def test_features_that_nobody_planted_are_absent():
    """Two dictionaries drawn independently with the covariance of the activations: what chance is sorted into."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(900, D, generator=draw) * torch.linspace(0.5, 2, D)
    a, b = (_side(random_rows(isotropic(60, D, seed), x, 60, seed)[0], x) for seed in (5, 6))
    counts = torch.bincount(sort(a, b, x, 6, draws=400).kinds, minlength=len(KINDS))
    assert counts[KINDS.index("absent")] >= 60 * (1 - 4 * ALPHA) - 3


def test_a_dictionary_is_matched_by_itself_and_dead_latents_by_nothing():
    x = torch.randn(400, D, generator=torch.Generator().manual_seed(1))
    side = _side(isotropic(30, D, 3), x)
    side = side._replace(alive=torch.arange(30) > 4)
    found = sort(side, side, x, 4, draws=200)
    assert (found.kinds[:5] == KINDS.index("dead")).all() and (found.kinds[5:] == KINDS.index("matched")).all()
    assert set(found.bars) == {"matched", "split or merged", "rotated"} and found.lost == 0


def test_the_sum_of_two_features_is_no_match_of_either():
    theirs, x = isotropic(40, D, 0), torch.randn(500, D, generator=torch.Generator().manual_seed(2))
    mine = torch.cat([theirs[:20], theirs[20:30] + theirs[30:40]])
    _, found, level = matched(mine, theirs, random_rows(mine, x, 300, 0), 0)
    assert found[:20].all() and not found[20:].any() and 0.7 < level < 0.9


def test_the_bar_lets_as_few_draws_pass_as_it_says():
    null = torch.arange(199.0)
    level = bar(null, 0.05)
    assert (1 + (null >= level + 0.5).sum()) / 200 <= 0.05 < (1 + (null >= level - 0.5).sum()) / 200
    with pytest.raises(ValueError, match="at least 99 for alpha"):
        bar(null[:98], 0.01)


def test_a_composition_is_sparse_non_negative_and_needs_its_parts():
    rows = isotropic(50, D, 0)
    targets = torch.stack([rows[3], 2 * rows[4] + rows[5] + rows[6], -rows[7], rows[8] - rows[9]])
    found = composition(targets, rows)
    assert found.cosines[:2].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert sorted(found.support[1].tolist()) == [4, 5, 6] and (found.without[1] < 0.95).all()
    assert found.cosines[2:].max() < 0.9, "no negative weights"
    own = (found.support[0] == 3).nonzero()[0, 0]
    assert found.without[0, own] < 0.7 and found.without[0].topk(2).values.min() > 0.999
    assert composition(targets, rows[:2]).support.shape == (4, 2)


def test_inside_a_span_is_a_share_of_the_squared_norm():
    rows = isotropic(6, D, 0)
    spans = rows.expand(3, 6, D)
    targets = torch.cat([rows[:1] - 2 * rows[3:4], drawn_inside(spans[:1], 0), isotropic(1, D, 1)])
    inside = share_inside(targets, spans)
    projector = torch.linalg.pinv(rows) @ rows
    wanted = (targets @ projector).square().sum(1) / targets.square().sum(1)
    assert inside.tolist() == pytest.approx(wanted.tolist(), abs=1e-4) and inside[:2].min() > 0.999


def test_features_of_one_group_fire_together():
    draw = torch.Generator().manual_seed(4)
    basis = torch.linalg.qr(torch.randn(D, 8, generator=draw)).Q.T
    on = torch.rand(2, 2000, 1, generator=draw) < 0.1
    x = sum(fires * torch.randn(2000, 4, generator=draw) @ part for fires, part in zip(on, basis.split(4), strict=True))
    found = fire_together(torch.cat([basis[:1] + basis[1:2], -basis[5:6]]), _side(basis, x), x, 4)
    assert ((found[0] @ basis.T).amax(0)[:4] > 0.99).all() and ((found[1] @ basis.T).amax(0)[4:] > 0.99).all()


def test_two_features_near_one_are_a_match_and_a_split():
    theirs, x = isotropic(40, D, 0), torch.randn(500, D, generator=torch.Generator().manual_seed(2))
    mine = torch.cat([theirs, theirs[:3] + 0.2 * isotropic(3, D, 1)])
    near, found, _ = matched(mine, theirs, random_rows(mine, x, 300, 0), 0)
    assert near.all() and found[:40].all() and not found[40:].any()
    kinds = sort(_side(mine, x), _side(theirs, x), x, 4, draws=300).kinds
    assert (kinds[40:] == KINDS.index("split or merged")).all()


def test_an_orbit_mate_is_near_because_of_a_shift():
    """Sums of three features are a little nearer to their parts than chance: without a shift, and not near enough."""
    one = plants.synthetic(0)
    waves = _side(one.b.rows[2 * plants.EACH : 3 * plants.EACH], one.x)  # of b, those that shifts turn
    planted = plants.in_geometry(waves, one.x, 4, one.turns)
    table = plants.confusion([planted], draws=300)[0]
    orbit = KINDS.index("orbit-mate")
    assert table[orbit, orbit] > 0.8 and table[KINDS.index("split or merged"), orbit] < 0.1
    assert table[KINDS.index("absent"), orbit] < 0.1


def test_the_power_in_the_geometry_of_one_sae():
    x = torch.randn(900, D, generator=torch.Generator().manual_seed(5))
    table = plants.confusion([plants.in_geometry(_side(isotropic(60, D, 7), x), x, 6, seed=1)], draws=300)[0]
    for kind in ("matched", "split or merged", "absent"):
        assert table[KINDS.index(kind), KINDS.index(kind)] > 0.8, kind
    assert table[KINDS.index("dead")].sum() != table[KINDS.index("dead")].sum(), "NaN where nothing is planted"


def test_refusals():
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(6))
    side = _side(isotropic(10, D, 0), x)
    with pytest.raises(ValueError, match="together"):
        sort(side, side, x, 0)
    with pytest.raises(ValueError, match="non-empty"):
        sort(side._replace(alive=torch.zeros(10, dtype=torch.bool)), side, x, 2)
    with pytest.raises(ValueError, match="plants"):
        plants.confusion([])


def _side(rows: torch.Tensor, x: torch.Tensor) -> Side:
    codes = ((x - x.mean(0)) @ rows.T).relu()
    return Side(rows, torch.ones(len(rows), dtype=torch.bool), codes)
