"""What is asked of an SAE beyond its own loss."""

from dataclasses import dataclass

from husai.config.base import require, require_types

OBJECTIVES = ("", "alignment", "assignment", "contrastive", "consensus", "pinning", "l2")
"""The terms of `husai.objectives` by name, "" for none; "pinning" fixes rows and adds no term."""
REFERRING = ("alignment", "assignment", "consensus", "pinning")
"""Objectives that compare with, or start from, the SAEs of a reference."""
ENCODERS = ("free", "fixed", "random")
"""What becomes of the encoder row and the bias of a latent whose decoder row is pinned."""


@dataclass(frozen=True)
class Objective:
    """A term by which dictionaries of several seeds become alike, or the rows that are fixed beforehand."""

    name: str = ""
    """One of `OBJECTIVES`."""
    weight: float = 0.0
    """Factor of the term in the loss."""
    relative: bool = False
    """Whether the factor is a multiple of the seed's reconstruction loss at that step, and not absolute."""
    every: int = 1
    """Steps between two looks at the term: its gradient, and the matching in it, are held in between."""
    fade: float = 0.0
    """Share of the steps over which the factor falls linearly to zero; 0 keeps it to the end."""
    group: int = 2
    """Neighbours in the list of seeds that are trained together (contrastive)."""
    temperature: float = 0.0
    """Of the soft assignment (contrastive): a softmax over |cos| / temperature; 0 takes the largest |cos| alone."""
    rows: int = 0
    """First latents that are copied from the reference: fixed there (pinning), or the term's subject (consensus)."""
    encoder: str = "free"
    """A pinned latent's encoder row and bias: the reference's at the start ("free") or throughout ("fixed"), or its own
    random ones throughout ("random"), as in the sources."""

    @property
    def refers(self) -> bool:
        """Whether a reference is needed."""
        return self.name in REFERRING

    @property
    def fixed(self) -> tuple[int, int]:
        """How many latents, from the first, keep their encoder row and bias, and how many their decoder row."""
        pinned = self.rows if self.name == "pinning" else 0
        return (0 if self.encoder == "free" else pinned), pinned

    def __post_init__(self) -> None:
        require_types(self)
        require(self.name in OBJECTIVES, "objective", self.name, f"one of {OBJECTIVES}")
        require(self.weight >= 0, "weight", self.weight, "a factor of at least 0")
        require(self.every >= 1, "every", self.every, "at least one step")
        require(0 <= self.fade <= 1, "fade", self.fade, "a share between 0 and 1")
        require(self.group >= 2, "group", self.group, "at least two seeds")
        require(self.temperature >= 0, "temperature", self.temperature, "a temperature of at least 0")
        require(self.rows >= 0, "rows", self.rows, "a number of latents")
        copies = self.name in ("pinning", "consensus")
        require(copies or self.rows == 0, "rows", self.rows, "0: only pinning and consensus copy latents")
        require(self.encoder in ENCODERS, "encoder", self.encoder, f"one of {ENCODERS}")
        fixes = self.name == "pinning" or self.encoder == "free"
        require(fixes, "encoder", self.encoder, "'free': only pinning fixes encoders")
