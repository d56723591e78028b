"""The fused CPU step of the TopK family, in numba; only `engines` imports it."""

from husai.kernels.step import BETA1, BETA2, EPSILON, Recipe, topk_steps

__all__ = ["BETA1", "BETA2", "EPSILON", "Recipe", "topk_steps"]
