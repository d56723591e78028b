"""SAEs that share planted features, and the data that these make."""

import torch

from husai.identifiability import recipe
from husai.saes import SAEBatch

D, K = 16, 3


def noisy(atoms: torch.Tensor, noise: float, seeds: int = 3) -> SAEBatch:
    """Return copies of a dictionary in other orders, every row turned by a little noise of its own."""
    rows = []
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        moved = atoms + noise * torch.randn(atoms.shape, generator=draw) / D**0.5
        rows.append(torch.nn.functional.normalize(moved, dim=1)[torch.randperm(len(atoms), generator=draw)])
    decoder = torch.stack(rows)
    config = recipe(len(atoms), K, 1).sae
    zeros = torch.zeros(seeds, len(atoms))
    return SAEBatch(config, tuple(range(seeds)), decoder.transpose(1, 2).clone(), zeros, decoder, torch.zeros(seeds, D))


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 12 well separated atoms, and data that they make: the commonest first."""
    atoms = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3))).Q[:12]
    draw = torch.Generator().manual_seed(4)
    rates = torch.linspace(0.6, 0.1, 12)
    codes = (torch.rand(2000, 12, generator=draw) < rates) * (1 + torch.rand(2000, 12, generator=draw))
    return atoms, codes @ atoms
