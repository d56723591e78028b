"""Metrics: one set of invariances for all that compare two dictionaries, naive oracles, refusals."""

from itertools import permutations

import numpy as np
import pytest
import torch

from husai import similarity
from husai.metrics import (
    activation_matching,
    alive_fraction,
    dead_fraction,
    effective_rank,
    frequency_weighted_hungarian,
    frequency_weighted_max_cosine,
    fvu,
    hungarian_mcc,
    init_cosine,
    l0,
    mean_max_cosine,
    other_explained_variance,
    pairwise_matrix,
    recovery,
    shared_fraction,
    subspace_overlap,
)
from husai.nulls import expected_max_cosine, isotropic

D_MODEL = 128

# How each compares dictionaries a, b; whether a flipped copy still scores 1; its value on independent isotropic
# ones, narrower (64) and wider (256) than d_model = 128: closed forms, and simulated means for the matchings.
COMPARISONS = {
    "max": (mean_max_cosine, True, {n: expected_max_cosine(D_MODEL, n) for n in (64, 256)}),
    "max signed": (
        lambda a, b: mean_max_cosine(a, b, signed=True),
        False,
        {n: expected_max_cosine(D_MODEL, n, signed=True) for n in (64, 256)},
    ),
    "max weighted": (
        lambda a, b: frequency_weighted_max_cosine(a, torch.ones(len(a)), b, torch.ones(len(b))),
        True,
        {n: expected_max_cosine(D_MODEL, n) for n in (64, 256)},
    ),
    "hungarian": (hungarian_mcc, False, {64: 0.1946, 256: 0.2357}),
    "hungarian absolute": (lambda a, b: hungarian_mcc(a, b, signed=False), True, {64: 0.2132, 256: 0.2535}),
    "hungarian weighted": (
        lambda a, b: frequency_weighted_hungarian(a, torch.ones(len(a)), b, torch.ones(len(b))),
        False,
        {64: 0.1946, 256: 0.2357},
    ),
    "recovery": (recovery, False, {64: 0.1946, 256: 0.2357}),
    "shared": (lambda a, b: shared_fraction(a, a, b, b), False, {64: 0.0, 256: 0.0}),
    "subspace": (lambda a, b: subspace_overlap(a, b, 8), True, {64: 8 / D_MODEL, 256: 8 / D_MODEL}),
    "activation": (lambda a, b: activation_matching(a.T, b.T), False, {64: 0.1946, 256: 0.2357}),
}


@pytest.fixture(scope="module")
def basis() -> torch.Tensor:
    """Return 400 inputs in 128 orthonormal, centred columns."""
    columns = torch.randn(400, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(columns - columns.mean(0)).Q


@pytest.mark.parametrize("d_sae", [64, 256])
@pytest.mark.parametrize("name", COMPARISONS)
def test_invariances(name: str, d_sae: int) -> None:
    compare, sign_blind, null = COMPARISONS[name]
    a, b = isotropic(d_sae, D_MODEL, 0), isotropic(d_sae, D_MODEL, 1)
    order = torch.randperm(d_sae, generator=torch.Generator().manual_seed(0))
    score = compare(a, b)

    assert compare(a, a) == pytest.approx(1, abs=1e-5), "identity"
    assert compare(a, a[order]) == pytest.approx(1, abs=1e-5), "a permuted copy; the wrong axis would score .09"
    assert compare(a, b[order]) == pytest.approx(score, abs=1e-5), "permutation"
    if name != "subspace":  # which keeps the lengths, so that they can carry weights
        assert compare(a, 3 * b) == pytest.approx(score, abs=1e-5), "length"
    assert compare(b, a) == pytest.approx(score, abs=1e-5), "symmetry"
    flipped = compare(a, -a)
    assert flipped == pytest.approx(1, abs=1e-5) if sign_blind else flipped < 0.4, "sign"
    assert score == pytest.approx(null[d_sae], abs=0.03 if name == "subspace" else 0.015), "null"


def test_unequal_widths() -> None:
    a, b = isotropic(64, D_MODEL, 0), isotropic(256, D_MODEL, 1)
    assert mean_max_cosine(a, b) == pytest.approx(expected_max_cosine(D_MODEL, 64, n_other=256), abs=0.01)
    wide = torch.cat([a, b])
    assert hungarian_mcc(a, wide) == pytest.approx(64 / 320, abs=1e-5), "left-over features count as 0"
    assert recovery(wide, a) == pytest.approx(1, abs=1e-5), "but do not punish a recovered truth"
    assert recovery(a, wide) == pytest.approx(64 / 320, abs=1e-5)
    assert shared_fraction(a, a, wide, wide) == pytest.approx(64 / 320)
    assert activation_matching(a.T, wide.T) == pytest.approx(64 / 320, abs=1e-5)


def test_a_collapsed_dictionary_fools_the_maximum_only() -> None:
    a = isotropic(1024, D_MODEL, 0)
    collapsed = a[torch.randint(64, (1024,), generator=torch.Generator().manual_seed(1))]
    assert mean_max_cosine(a, collapsed) == pytest.approx(0.64, abs=0.01)
    assert hungarian_mcc(a, collapsed) == pytest.approx(0.254, abs=0.01)
    assert hungarian_mcc(a, collapsed, signed=False) == pytest.approx(0.274, abs=0.01)


def cosine(u: torch.Tensor, v: torch.Tensor) -> float:
    return float(u @ v / (u.norm() * v.norm()))


@pytest.mark.parametrize(("n_a", "n_b", "d_model"), [(5, 5, 3), (4, 6, 9), (6, 4, 2)])
def test_oracles(n_a: int, n_b: int, d_model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", 2)  # blocks must not show
    draw = torch.Generator().manual_seed(n_a)
    a, b = (torch.randn(n, d_model, generator=draw) for n in (n_a, n_b))
    p, q = (torch.rand(n, generator=draw) for n in (n_a, n_b))
    cos = np.array([[cosine(u, v) for v in b] for u in a])

    best_a, best_b = np.abs(cos).max(1), np.abs(cos).max(0)
    assert mean_max_cosine(a, b) == pytest.approx((best_a.mean() + best_b.mean()) / 2, abs=1e-5)
    signed = (cos.max(1).mean() + cos.max(0).mean()) / 2
    assert mean_max_cosine(a, b, signed=True) == pytest.approx(signed, abs=1e-5)
    weighted = (np.average(best_a, weights=p) + np.average(best_b, weights=q)) / 2
    assert frequency_weighted_max_cosine(a, p, b, q) == pytest.approx(weighted, abs=1e-5)

    def best_sum(scores: np.ndarray) -> float:
        scores = scores if len(scores) <= len(scores.T) else scores.T
        choices = permutations(range(scores.shape[1]), len(scores))
        return max(sum(scores[i, j] for i, j in enumerate(choice)) for choice in choices)

    assert hungarian_mcc(a, b) == pytest.approx(best_sum(cos) / max(n_a, n_b), abs=1e-5)
    assert hungarian_mcc(a, b, signed=False) == pytest.approx(best_sum(np.abs(cos)) / max(n_a, n_b), abs=1e-5)
    assert recovery(a, b) == pytest.approx(best_sum(cos) / n_b, abs=1e-5)
    pairs = max(
        (list(zip(range(n_a), choice, strict=False)) for choice in permutations(range(n_b), min(n_a, n_b))),
        key=lambda pairs: sum(cos[i, j] for i, j in pairs),
    ) if n_a <= n_b else max(
        (list(zip(choice, range(n_b), strict=False)) for choice in permutations(range(n_a), n_b)),
        key=lambda pairs: sum(cos[i, j] for i, j in pairs),
    )  # fmt: skip
    weighted = sum(float(p[i] + q[j]) * cos[i, j] for i, j in pairs) / float(p.sum() + q.sum())
    assert frequency_weighted_hungarian(a, p, b, q) == pytest.approx(weighted, abs=1e-5)

    z_a, z_b = a.T.repeat(2, 1) + torch.randn(2 * d_model, n_a, generator=draw), b.T.repeat(2, 1)
    correlation = np.corrcoef(z_a.numpy().T, z_b.numpy().T)[:n_a, n_a:]
    assert activation_matching(z_a, z_b) == pytest.approx(best_sum(correlation) / max(n_a, n_b), abs=1e-5)

    rank = min(n_a, n_b, d_model) - 1
    spans = [np.linalg.svd(x.double().numpy())[2][:rank] for x in (a, b)]
    overlap = np.trace(spans[0].T @ spans[0] @ spans[1].T @ spans[1]) / rank
    assert subspace_overlap(a, b, rank) == pytest.approx(overlap, abs=1e-9)


def test_frequencies_weigh_pairs_and_what_is_left_over() -> None:
    a, b = torch.eye(4)[:2], torch.eye(4)[[0, 2]]  # the second features are orthogonal
    p, q = torch.tensor([3.0, 1.0]), torch.tensor([5.0, 1.0])
    assert frequency_weighted_hungarian(a, p, b, q) == pytest.approx(8 / 10)
    assert frequency_weighted_hungarian(a, 7 * p, b, 7 * q) == pytest.approx(8 / 10)
    alone = torch.tensor([1.0])
    assert frequency_weighted_hungarian(a, p, a[:1], alone) == pytest.approx(4 / 5), "the rate of the feature left over"
    assert frequency_weighted_hungarian(a, torch.tensor([3.0, 0.0]), a[:1], alone) == pytest.approx(1)
    order = [1, 0]
    assert frequency_weighted_hungarian(a[order], p[order], b, q) == pytest.approx(8 / 10)


def test_shared_fraction_needs_both_sides_to_agree() -> None:
    dec = isotropic(40, D_MODEL, 0)
    enc = isotropic(40, D_MODEL, 1)
    other = enc.clone()
    other[:10] = enc[:10].roll(1, 0)  # ten encoder rows find another partner than their decoder rows
    assert shared_fraction(enc, dec, other, dec) == pytest.approx(0.75)
    tilted = isotropic(40, D_MODEL, 2) + 0.8 * dec
    agreement = [shared_fraction(enc, dec, enc, tilted, tau=tau) for tau in (0.1, 0.63, 0.9)]
    assert agreement[0] == 1 and 0 < agreement[1] < 1 and agreement[2] == 0


def test_weights_decide_what_counts() -> None:
    a, b = isotropic(64, 32, 0), isotropic(64, 32, 1)
    a[:8] = b[:8]
    alive = (torch.arange(64) < 8).float()
    assert frequency_weighted_max_cosine(a, alive, b, alive) == pytest.approx(1, abs=1e-5)
    assert mean_max_cosine(a, b) < 0.65


def test_activation_matching_leaves_constant_latents_out() -> None:
    z = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([z, torch.full((50, 3), 0.1)], 1)
    assert activation_matching(z, padded) == pytest.approx(1, abs=1e-5)
    assert activation_matching(z, z[torch.randperm(50)]) < 0.5


def test_initialisation_and_aliveness() -> None:
    start = isotropic(300, 20, 0)
    assert init_cosine(-2 * start, start) == pytest.approx(1, abs=1e-5)
    expected = expected_max_cosine(20, 1)  # an unrelated direction
    assert init_cosine(isotropic(300, 20, 1), start) == pytest.approx(expected, abs=0.02)
    rates = torch.tensor([0.0, 0.001, 0.002, 1.0])
    assert alive_fraction(rates) == 0.5 and dead_fraction(rates) == 0.5
    assert alive_fraction(rates, threshold=0.0) == 0.75
    assert l0(torch.tensor([0.0, 0.5, 1.0])) == 1.5


@pytest.mark.parametrize(
    ("slope", "ranks"),
    [
        (0, (128, 128, 128)),
        (0.5, (124, 107, 83)),
        (1, (107, 47, 18)),
        (1.5, (78, 13, 4.9)),
        (2, (47, 4.9, 2.5)),
    ],
)
def test_effective_ranks_of_power_laws(slope: float, ranks: tuple[float, ...], basis: torch.Tensor) -> None:
    """Eigenvalues i^-slope in 128 dimensions; the three definitions differ by up to twentyfold."""
    x = basis * torch.arange(1, 129) ** (-slope / 2) + 5
    for kind, wanted in zip(("singular_entropy", "variance_entropy", "participation_ratio"), ranks, strict=True):
        assert effective_rank(x, kind) == pytest.approx(wanted, rel=0.02)


def test_fvu_is_centred_by_the_given_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 7, generator=draw) + 10
    x_hat, mean = x + 0.3 * torch.randn(30, 7, generator=draw), torch.full((7,), 10.0)
    error = sum(float((x[i, j] - x_hat[i, j]) ** 2) for i in range(30) for j in range(7))
    spread = sum(float((x[i, j] - 10) ** 2) for i in range(30) for j in range(7))
    assert fvu(x, x_hat, mean) == pytest.approx(error / spread, rel=1e-5)
    assert fvu(x, x, mean) == 0
    assert fvu(x, mean.expand(30, 7), mean) == pytest.approx(1)
    assert fvu(x, x + 1, mean) > 0.5, "a constant error is not free"


def test_the_sources_definitions_of_explained_variance_forgive_different_errors() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=draw).double() + 10
    noisy, mean = x + torch.randn(40, 6, generator=draw), x.mean(0)
    assert other_explained_variance(x, noisy, "own_mean") == pytest.approx(1 - fvu(x, noisy, mean))
    wanted = 1 - float(np.var((x - noisy).numpy()) / np.var(x.numpy()))
    assert other_explained_variance(x, noisy, "all_values") == pytest.approx(wanted)
    assert other_explained_variance(x, noisy, "uncentred") > 0.98, "noise as large as the spread passes for nothing"
    assert other_explained_variance(x, x + 3, "all_values") == pytest.approx(1), "a constant error is free"
    assert other_explained_variance(x, x + 3, "own_mean") < 0
    assert other_explained_variance(x, mean.expand(40, 6), "own_mean") == pytest.approx(0)


def test_pairwise_matrix_passes_all_of_one_seed_then_all_of_the_other() -> None:
    decoders = torch.stack([isotropic(20, 12, seed) for seed in range(3)])
    rates = [torch.rand(20) for _ in range(3)]
    scores = pairwise_matrix(frequency_weighted_max_cosine, decoders, rates, signed=True)
    assert scores.shape == (3, 3) and (scores == scores.T).all() and (np.diag(scores) == 1).all()
    pair = frequency_weighted_max_cosine(decoders[2], rates[2], decoders[1], rates[1], signed=True)
    assert scores[1, 2] == pytest.approx(pair)
    with pytest.raises(ValueError, match="stacks is .*one entry a seed"):
        pairwise_matrix(mean_max_cosine, decoders, rates[:2])


GOOD, NARROW, EMPTY = torch.ones(4, 3), torch.ones(4, 2), torch.ones(0, 3)
NAN, INF = torch.full((4, 3), torch.nan), torch.full((4, 3), torch.inf)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("bad", [NARROW, EMPTY, NAN, INF, torch.ones(3)], ids=["narrow", "empty", "nan", "inf", "1-d"])
def test_comparisons_refuse(name: str, bad: torch.Tensor) -> None:
    compare = COMPARISONS[name][0]
    for pair in ((GOOD, bad), (bad, GOOD)):
        with pytest.raises(ValueError, match="wanted"):
            compare(*pair) if bad.ndim == 2 else mean_max_cosine(*pair)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_max_cosine(GOOD, NARROW), r"b.shape is \(4, 2\); wanted \[d_sae, 3\], as a"),
        (lambda: recovery(GOOD, NAN), "truth is 'NaN or Inf'"),
        (lambda: shared_fraction(GOOD, GOOD[:3], GOOD, GOOD), "enc_a.shape"),
        (lambda: subspace_overlap(GOOD, GOOD, 4), "rank is 4; wanted 1 to 3"),
        (
            lambda: frequency_weighted_max_cosine(GOOD, -torch.ones(4), GOOD, torch.ones(4)),
            "freq_a is 'negative",
        ),
        (
            lambda: frequency_weighted_max_cosine(GOOD, torch.ones(4), GOOD, torch.zeros(4)),
            "freq_b .*all zero",
        ),
        (
            lambda: frequency_weighted_hungarian(GOOD, torch.ones(4), GOOD, torch.zeros(4)),
            "freq_b is 'negative, not finite or all zero'; wanted firing frequencies",
        ),
        (
            lambda: frequency_weighted_max_cosine(GOOD, torch.ones(3), GOOD, torch.ones(4)),
            "freq_a is '3 values'",
        ),
        (lambda: activation_matching(GOOD, torch.ones(5, 3)), "z_b is 'on 5 inputs'"),
        (lambda: activation_matching(GOOD, GOOD), "z_a is 'constant"),
        (
            lambda: effective_rank(torch.rand(5, 3), "entropy"),
            "kind is 'entropy'; wanted one of singular_entropy",
        ),
        (lambda: effective_rank(GOOD, "participation_ratio"), "x is 'one repeated row'"),
        (lambda: fvu(GOOD, NARROW, torch.ones(3)), "x_hat.shape"),
        (lambda: fvu(GOOD, GOOD, torch.ones(2)), "mean.shape"),
        (lambda: fvu(GOOD, NAN, torch.ones(3)), "x_hat is 'NaN"),
        (lambda: fvu(GOOD, GOOD, torch.ones(3)), "x is 'equal to the mean"),
        (lambda: other_explained_variance(GOOD, GOOD, "global"), "kind is 'global'; wanted one of uncentred"),
        (lambda: other_explained_variance(GOOD, GOOD, "own_mean"), "x is 'without variance'"),
        (lambda: init_cosine(GOOD, NARROW), "initial.shape"),
        (lambda: l0(torch.tensor([0.1, torch.nan])), "firing_rate"),
        (lambda: alive_fraction(torch.tensor([0.1, torch.nan])), "firing_rate"),
        (lambda: alive_fraction(torch.tensor([3.0])), "firing_rate"),
        (lambda: dead_fraction(torch.tensor([])), "firing_rate"),
    ],
)
def test_refusals_name_the_argument(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
