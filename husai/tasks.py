"""Tasks with a known answer: modular arithmetic and a copy as sequences, sparse dictionaries."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import TaskConfig, require, stream_seed


class Sequences(NamedTuple):
    """Every sequence of a task."""

    tokens: Int[Tensor, "rows positions"]
    """Input tokens; residues are their own ids, then BOS, EOS, =, the operator, and a second operator where one is."""
    answers: Int[Tensor, " rows"]
    """What stands behind `=`."""
    position: int
    """Index of the token at which the answer is read."""
    vocabulary: int
    """Number of token ids."""
    names: tuple[str, ...]
    """What stands at each position."""


def sequences(task: TaskConfig) -> Sequences:
    """Return all sequences of a task, in a-major order where they are not drawn.

    `clean` is [BOS, a, +, b, =] read at `=`: the answer is nowhere in the input, but for `copy`.
    `leaked` is [BOS, a, +, b, =, c, EOS] read at `c`, the sources' format, where copying the current token suffices.

    By operation, modulo p:

    - `addition`: a + b.
    - `multiplication`: a * b for all p*p pairs. Those with a 0 (2p - 1 of them) answer 0; on the others it is addition
      of discrete logarithms modulo p - 1.
    - `combined`: (a + b)^3, a sum multiplied by itself twice. Where 3 does not divide p - 1 that renames the answers of
      addition one to one, so a block that can add can learn it. A third operand, even one of two values, or the square,
      which gives s and -s one answer, are learned several times more slowly.
    - `combined_drawn`: (a + b) * m as [BOS, a, +, b, *, m, =] with p*p triples drawn from all p^3, as the sources had
      it: a multiplier meets a sum in less than one of the triples that are trained on, which leaves learning by heart.
    - `copy`: the answer is a, and declared to be in the input: the control in which nothing is computed.
    """
    p = task.p
    bos, eos, equals, operator, times = p, p + 1, p + 2, p + 3, p + 4
    sign = {"multiplication": "*", "copy": ","}.get(task.operation, "+")
    three = task.operation == "combined_drawn"
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    m = (a + b) ** 2
    if three:
        a, b, m = torch.randint(p, (3, p * p), generator=generator(0, "tasks/combined_drawn"))
    answers = {"addition": a + b, "multiplication": a * b, "copy": a}.get(task.operation, (a + b) * m) % p
    constant = torch.ones_like(a)
    columns = [bos * constant, a, operator * constant, b]
    columns += [times * constant, m] if three else []
    columns += [equals * constant]
    names = ["BOS", "a", sign, "b", *(["*", "m"] if three else []), "="]
    if task.format == "leaked":
        columns += [answers, eos * constant]
        names += ["c", "EOS"]
    position = names.index("c" if task.format == "leaked" else "=")
    return Sequences(torch.stack(columns, 1), answers, position, p + 4 + three, tuple(names))


def train_mask(task: TaskConfig, seed: int) -> Bool[Tensor, " rows"]:
    """Return which sequences of the task a model of this seed is trained on; the rest are held out."""
    rows = task.p**2
    order = torch.randperm(rows, generator=generator(seed, "split"))
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[order[: round(task.train_fraction * rows)]] = True
    return mask


def fourier_basis(p: int) -> Float[Tensor, "p p"]:
    """Return the orthonormal real Fourier basis of Z_p for odd p: the constant, then cos and sin of k = 1..(p-1)/2.

    Rows 2k-1 and 2k are sqrt(2/p) cos(2 pi k x/p) and sqrt(2/p) sin(2 pi k x/p): each direction once.
    """
    require(p % 2 == 1, "p", p, "an odd modulus")
    x, k = torch.arange(p, dtype=torch.float64), torch.arange(1, (p - 1) // 2 + 1, dtype=torch.float64)
    angle = 2 * torch.pi * k[:, None] * x / p
    waves = torch.stack([torch.cos(angle), torch.sin(angle)], 1).reshape(p - 1, p) * (2 / p) ** 0.5
    return torch.cat([torch.full((1, p), p**-0.5, dtype=torch.float64), waves])


def frequency_power(table: Float[Tensor, "p d"]) -> Float[Tensor, " frequencies"]:
    """Return each frequency's share of the centred squared norm of a table indexed by residues, k = 1..(p-1)/2."""
    spectrum = fourier_basis(len(table)) @ (table.double() - table.double().mean(0))
    power = spectrum[1:].square().sum(1).reshape(-1, 2).sum(1)
    return power / power.sum()


class SparseDictionary(NamedTuple):
    """Synthetic activations whose features are known."""

    activations: Float[Tensor, "n d_model"]
    """x = sum of k atoms with positive coefficients."""
    atoms: Float[Tensor, "atoms d_model"]
    """The true features: unit rows."""
    codes: Float[Tensor, "n atoms"]
    """The coefficients, k of them non-zero a row."""


def sparse_dictionary(d_model: int, atoms: int, k: int, n: int, seed: int) -> SparseDictionary:
    """Return n samples of a sparse non-negative code over random unit atoms (the toy of Song et al. 2025, section 4.1).

    Each sample has exactly k atoms, uniformly chosen, with coefficients |N(0, 1)|.
    """
    require(1 <= k <= atoms, "k", k, f"1 <= k <= atoms = {atoms}")
    draw = generator(seed, "dictionary")
    truth = torch.nn.functional.normalize(torch.randn(atoms, d_model, generator=draw), dim=1)
    chosen = torch.rand(n, atoms, generator=draw).topk(k).indices
    codes = torch.zeros(n, atoms).scatter_(1, chosen, torch.randn(n, k, generator=draw).abs())
    return SparseDictionary(codes @ truth, truth, codes)


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a torch generator for one named random stream."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))
