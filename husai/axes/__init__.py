"""Internal and external axes of trained SAEs, one value a seed: candidates, their front, and how they scale."""

from husai.axes.candidates import Candidate

__all__ = ["Candidate"]
