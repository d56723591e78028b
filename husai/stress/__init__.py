"""Stress tests: what becomes of SAEs and of their agreement when the model, the data or the arithmetic changes."""

from husai.stress.binding import evidence

__all__ = ["evidence"]
