"""How alike two dictionaries are, how well one reconstructs, and how spread out activations are.

Decoder rows are features: dictionaries come as [d_sae, d_model] and their rows are normalised here (a zero
row stays zero and matches nothing). Every number is a property of its shapes as much as of its features: read
it beside its null (`nulls`). The sources' PWMCC is `mean_max_cosine`; the PW-MCC of Song et al. is
`hungarian_mcc`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from husai.config import require
from husai.matching import matching
from husai.similarity import best_cosines, check, same_shape, same_width, unit_rows

RankKind = Literal["singular_entropy", "variance_entropy", "participation_ratio"]
VarianceKind = Literal["uncentred", "all_values", "own_mean"]


def mean_max_cosine(a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], *, signed: bool = False) -> float:
    """Return the symmetric mean over features of the best cosine in the other dictionary: the sources' PWMCC.

    1/2 [mean_i max_j |cos(a_i, b_j)| + mean_j max_i |cos(a_i, b_j)|]; `signed` drops the absolute value. Many
    features may share one best match, so a collapsed dictionary still scores high: report `hungarian_mcc`
    beside it. ValueError: empty, NaN or Inf, unequal d_model. Source: MMCS of Sharkey et al. (2022),
    symmetrised.
    """
    best_a, best_b = best_cosines(a, b, signed=signed)
    return float((best_a.mean() + best_b.mean()) / 2)


def frequency_weighted_max_cosine(
    a: Float[Tensor, "n_a d_model"],
    freq_a: Float[Tensor, " n_a"],
    b: Float[Tensor, "n_b d_model"],
    freq_b: Float[Tensor, " n_b"],
    *,
    signed: bool = False,
) -> float:
    """Return `mean_max_cosine` with every feature weighted by how often it fires.

    A dead feature has no weight but can be a match. 1/2 [sum_i p_i max_j |cos| / sum_i p_i + sum_j p_j max_i
    |cos| / sum_j p_j]. ValueError: as `mean_max_cosine`, and frequencies negative, all zero or not one a row.
    """
    best_a, best_b = best_cosines(a, b, signed=signed)
    _check_frequencies(freq_a=(freq_a, a), freq_b=(freq_b, b))
    return sum(float((p * best).sum() / p.sum()) for p, best in ((freq_a, best_a), (freq_b, best_b))) / 2


def hungarian_mcc(a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], *, signed: bool = True) -> float:
    """Return the mean cosine under the best one-to-one matching: PW-MCC; against a known truth, GT-MCC.

    max over matchings of sum cos(a_i, b_match(i)) / max(n_a, n_b): features left over count as 0;
    `signed=False` takes |cos|. Above 4096^2 cosines a lower bound, see `matching`. ValueError: empty, NaN or
    Inf, unequal d_model. Source: Song et al. (2025), arXiv:2505.20254.
    """
    return float(matching(a, b, signed=signed).cosines.sum()) / max(len(a), len(b))


def frequency_weighted_hungarian(
    a: Float[Tensor, "n_a d_model"],
    freq_a: Float[Tensor, " n_a"],
    b: Float[Tensor, "n_b d_model"],
    freq_b: Float[Tensor, " n_b"],
    *,
    signed: bool = True,
) -> float:
    """Return `hungarian_mcc` with every pair weighted by the mean of how often its two features fire.

    Over the matching of `hungarian_mcc`, which does not look at frequencies: sum_ij (p_i + q_j) cos(a_i, b_j) divided
    by sum_i p_i + sum_j q_j, so that features left over count as 0. ValueError: as `frequency_weighted_max_cosine`.
    """
    pairs = matching(a, b, signed=signed)
    _check_frequencies(freq_a=(freq_a, a), freq_b=(freq_b, b))
    weights = (freq_a[pairs.rows] + freq_b[pairs.columns]).double()
    return float((weights * pairs.cosines).sum() / (freq_a.double().sum() + freq_b.double().sum()))


def recovery(dictionary: Float[Tensor, "d_sae d_model"], truth: Float[Tensor, "atoms d_model"]) -> float:
    """Return GT-MCC: the mean signed cosine of the true atoms with their matches, 0 for an atom left over.

    As `hungarian_mcc`, but divided by the number of true atoms, so that a wider dictionary is not punished.
    ValueError: empty, NaN or Inf, unequal d_model. Source: Song et al. (2025), arXiv:2505.20254.
    """
    same_width(dictionary=dictionary, truth=truth)
    return float(matching(dictionary, truth).cosines.sum()) / len(truth)


def shared_fraction(
    enc_a: Float[Tensor, "n_a d_model"],
    dec_a: Float[Tensor, "n_a d_model"],
    enc_b: Float[Tensor, "n_b d_model"],
    dec_b: Float[Tensor, "n_b d_model"],
    tau: float = 0.7,
) -> float:
    """Return the share of latents whose encoder and decoder rows find one partner, both with cosine > tau.

    Signed Hungarian matching separately on encoders and on decoders (all given as [d_sae, d_model]); over
    max(n_a, n_b). ValueError: empty, NaN or Inf, unequal shapes within an SAE or d_model between them.
    Source: Paulo & Belrose (2025), arXiv:2501.16615.
    """
    same_width(enc_a=enc_a, enc_b=enc_b)
    same_width(dec_a=dec_a, dec_b=dec_b)
    same_shape(dec_a=dec_a, enc_a=enc_a)
    same_shape(dec_b=dec_b, enc_b=enc_b)
    found = []
    for rows, columns, cosines in (matching(enc_a, enc_b), matching(dec_a, dec_b)):
        above = cosines > tau
        found.append(set(zip(rows[above].tolist(), columns[above].tolist(), strict=True)))
    return len(found[0] & found[1]) / max(len(dec_a), len(dec_b))


def subspace_overlap(a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], rank: int) -> float:
    """Return tr(P_A P_B) / rank, with P the projector on the top right singular vectors of a dictionary.

    1 for the same subspace; rank / d_model for independent isotropic ones. Rows are *not* normalised here, so
    that a caller may weight them by their activation, D diag(E z^2)^(1/2). ValueError: as `mean_max_cosine`,
    rank outside 1..min(shape).
    """
    same_width(a=a, b=b)
    limit = min(*a.shape, *b.shape)
    require(1 <= rank <= limit, "rank", rank, f"1 to {limit}")
    # The eigenvectors of the small Gram matrix; eigh sorts ascending, so the last ones are the top ones.
    top_a, top_b = (torch.linalg.eigh(x.double().T @ x.double()).eigenvectors[:, -rank:] for x in (a, b))
    return float((top_a.T @ top_b).square().sum()) / rank


def activation_matching(z_a: Float[Tensor, "inputs n_a"], z_b: Float[Tensor, "inputs n_b"]) -> float:
    """Return the mean Pearson correlation of one-to-one matched latents on the same held-out inputs.

    Hungarian matching on the correlations, latents that never vary left out, over the larger remaining count.
    ValueError: empty, NaN or Inf, unequal numbers of inputs, no latent that varies. Source: after Bricken et
    al. (2023).
    """
    check(z_a=z_a, z_b=z_b)
    require(len(z_a) == len(z_b), "z_b", f"on {len(z_b)} inputs", f"the {len(z_a)} inputs of z_a")
    centred = []
    for name, z in (("z_a", z_a), ("z_b", z_b)):
        varies = (z != z[0]).any(0)
        require(bool(varies.any()), name, "constant in every latent", "a latent that varies over the inputs")
        centred.append((z[:, varies] - z[:, varies].mean(0)).T)  # their cosines are the correlations
    return float(matching(*centred).cosines.sum()) / max(map(len, centred))


def init_cosine(decoder: Float[Tensor, "d_sae d_model"], initial: Float[Tensor, "d_sae d_model"]) -> float:
    """Return the mean |cosine| of each decoder row with its own initialisation: near 1, nothing was learnt.

    ValueError: empty, NaN or Inf, unequal shapes.
    """
    same_shape(decoder=decoder, initial=initial)
    check(decoder=decoder, initial=initial)
    return float((unit_rows(decoder) * unit_rows(initial)).sum(1).abs().mean())


def effective_rank(x: Float[Tensor, "inputs d_model"], kind: RankKind) -> float:
    """Return how many directions centred activations fill; the three definitions differ by factors.

    From singular values s of x - mean(x): exp(H(s / sum s)) `singular_entropy`; exp(H(s^2 / sum s^2))
    `variance_entropy`; (sum s^2)^2 / sum s^4 `participation_ratio`. ValueError: empty, NaN or Inf, constant,
    unknown kind. Source: Roy & Vetterli (2007) for the first.
    """
    kinds = ("singular_entropy", "variance_entropy", "participation_ratio")
    require(kind in kinds, "kind", kind, f"one of {', '.join(kinds)}")
    check(x=x)
    require(bool((x != x[0]).any()), "x", "one repeated row", "activations that vary")
    centred = x.double() - x.double().mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    if kind == "participation_ratio":
        return float(variances.sum() ** 2 / variances.square().sum())
    weights = variances.sqrt() if kind == "singular_entropy" else variances
    return float(torch.special.entr(weights / weights.sum()).sum().exp())


def fvu(
    x: Float[Tensor, "inputs d_model"],
    x_hat: Float[Tensor, "inputs d_model"],
    mean: Float[Tensor, " d_model"],
) -> float:
    """Return the fraction of variance unexplained, sum |x - x_hat|^2 / sum |x - mean|^2; EV = 1 - FVU.

    `mean` is the per-dimension mean of the *training* activations, x is held out. ValueError: empty, NaN or
    Inf, unequal shapes, x equal to the mean everywhere.
    """
    same_shape(x=x, x_hat=x_hat)
    same_shape(x_i=x[0], mean=mean)
    check(x=x, x_hat=x_hat, mean=mean[None])
    x = x.double()
    total = (x - mean).square_().sum()
    require(bool(total > 0), "x", "equal to the mean everywhere", "activations that vary")
    return float((x - x_hat).square_().sum() / total)


def other_explained_variance(
    x: Float[Tensor, "inputs d_model"], x_hat: Float[Tensor, "inputs d_model"], kind: VarianceKind
) -> float:
    """Return the explained variance by a definition of the sources; the house's is 1 - `fvu`.

    With e = x - x_hat: `uncentred` 1 - sum e^2 / sum x^2; `all_values` 1 - var(e) / var(x) over all numbers at
    once, so that a constant error costs nothing; `own_mean` 1 - sum e^2 / sum |x - mean(x)|^2, the mean being that
    of these rows. ValueError: empty, NaN or Inf, unequal shapes, unknown kind, nothing to explain.
    """
    kinds = ("uncentred", "all_values", "own_mean")
    require(kind in kinds, "kind", kind, f"one of {', '.join(kinds)}")
    same_shape(x=x, x_hat=x_hat)
    check(x=x, x_hat=x_hat)
    x, error = x.double(), x.double() - x_hat
    none = x.new_zeros(())
    of_error, of_x = {
        "uncentred": (none, none), "all_values": (error.mean(), x.mean()), "own_mean": (none, x.mean(0))
    }[kind]  # fmt: skip
    total = (x - of_x).square().sum()
    require(bool(total > 0), "x", "without variance", "activations that vary")
    return float(1 - (error - of_error).square().sum() / total)


def l0(firing_rate: Float[Tensor, " d_sae"]) -> float:
    """Return the mean number of active (non-zero) latents an input: the sum of the latents' firing rates.

    ValueError: empty, outside [0, 1].
    """
    _check_rates(firing_rate)
    return float(firing_rate.double().sum())


def alive_fraction(firing_rate: Float[Tensor, " d_sae"], threshold: float = 1e-3) -> float:
    """Return the share of latents that fire on more than `threshold` of the held-out inputs.

    `firing_rate` is the share of inputs on which each latent is not zero. ValueError: empty, outside [0, 1].
    """
    _check_rates(firing_rate)
    return float((firing_rate > threshold).double().mean())


def dead_fraction(firing_rate: Float[Tensor, " d_sae"], threshold: float = 1e-3) -> float:
    """Return 1 - `alive_fraction`."""
    return 1 - alive_fraction(firing_rate, threshold)


def _check_rates(firing_rate: Tensor) -> None:
    shares = len(firing_rate) > 0 and bool(((firing_rate >= 0) & (firing_rate <= 1)).all())
    require(shares, "firing_rate", "empty, NaN or outside [0, 1]", "one share of inputs a latent")


def _check_frequencies(**sides: tuple[Tensor, Tensor]) -> None:
    for name, (weights, rows) in sides.items():
        require(len(weights) == len(rows), name, f"{len(weights)} values", f"{len(rows)}, one a row")
        valid = bool(torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0)
        require(valid, name, "negative, not finite or all zero", "firing frequencies")


def pairwise_matrix(metric: Callable[..., float], *stacks: Sequence[Tensor] | Tensor, **options: object) -> np.ndarray:
    """Return the symmetric matrix [S, S] of a metric over all pairs of seeds, 1 on its diagonal.

    Each stack holds one tensor a seed (a list, or a leading seed dimension). The metric is called with
    everything of seed i, then everything of seed j: `pairwise_matrix(shared_fraction, encoders, decoders,
    tau=0.8)`. Input of `stats.pairwise`. ValueError: no stack, or stacks of unequal length.
    """
    lengths = [len(stack) for stack in stacks]
    require(len(set(lengths)) == 1, "stacks", lengths, "one or more stacks with one entry a seed each")
    scores = np.eye(lengths[0])
    for i in range(lengths[0]):
        for j in range(i):
            scores[i, j] = scores[j, i] = metric(*(s[i] for s in stacks), *(s[j] for s in stacks), **options)
    return scores
