"""Which part of the fused step takes how long, on one thread: 128 / 1024 / 32, batch 256."""

from time import thread_time

import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.timing import interleaved
from husai.kernels import Recipe, rows, step
from husai.kernels.selection import collect, threshold

BATCH, D_MODEL, D_SAE, K = 256, 128, 1024, 32


@numba.njit(nogil=True)
def product(rows, encoder, pre):
    """Multiply as the step does."""
    np.dot(rows, encoder.T, pre)


@numba.njit(nogil=True)
def select(pre, chosen):
    """Select as the step does, and do nothing with it."""
    level, slope = pre.dtype.type(0), 0.0
    for b in range(pre.shape[0]):
        level, ties, slope = threshold(pre[b], K, False, (level, slope))
        collect(pre[b], level, ties, chosen)


def parts(repeats: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds of every part of a step and of whole steps, over repeats."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4 * BATCH, D_MODEL, generator=draw).numpy()
    weights = [torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=draw), dim=1).numpy() for _ in "ed"]
    encoder, decoder = weights
    bias, centre, order = np.zeros(D_SAE, np.float32), np.zeros(D_MODEL, np.float32), np.arange(BATCH)
    moments = tuple(np.zeros_like(w) for w in (encoder, decoder, bias, centre) for _ in range(2))
    recipe = Recipe(
        by_batch=False, signed=False, levels=np.array([D_SAE]), by_rank=False, transcoder=False, centred=True,
        aligned=False, project=True, unit=True, encodes_from=0, decodes_from=0, l2=0.0, clip_norm=1.0,
        auxk=1 / 32, dead_after=256, k_aux=D_MODEL // 2,
    )  # fmt: skip
    scratch = step._scratch(BATCH, 1, BATCH * (K + D_MODEL // 2), encoder, decoder, False)
    none_dead, losses, silent = np.empty(0, np.int64), np.zeros(2), np.zeros(D_SAE, np.int64)
    fired, none = np.zeros(D_SAE, np.bool_), encoder[:0]
    gradient, one = scratch.g_encoder, np.float32(1)

    def forward() -> int:
        return step._forward(x, order, K, decoder, centre, recipe, none_dead, fired, recipe.levels, scratch, losses)

    def adam() -> None:
        for weight, first in ((encoder, 0), (decoder, 2)):
            flat = [array.ravel() for array in (weight, gradient, moments[first], moments[first + 1])]
            rows.adam(*flat, one, np.float32(0), one)

    def whole() -> None:
        step.topk_steps(
            x, x, order[None], np.array([1e-3]), np.array([K]), 0, (encoder, decoder, bias, centre), moments, silent,
            none, recipe, losses[None],
        )  # fmt: skip

    step._inputs(x, centre, order, False, scratch.rows)
    with threadpool_limits(1, user_api="blas"):
        product(scratch.rows, encoder, scratch.pre)
        entries = forward()
        calls = {
            "encoder product": lambda: product(scratch.rows, encoder, scratch.pre),
            "selection": lambda: select(scratch.pre, scratch.chosen),
            "selection, decoding and errors": forward,
            "sorting by latent": lambda: step._sort_by_latent(entries, scratch),
            "gradients": lambda: step._backward(encoder, decoder, none, recipe, scratch),
            "Adam": adam,
            "a whole step": whole,
        }
        seconds = interleaved(list(calls.values()), repeats + 1, thread_time)  # the first turn compiles
    return {name: [1e3 * value for value in times[1:]] for name, times in zip(calls, seconds, strict=True)}
