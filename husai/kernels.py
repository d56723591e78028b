"""The fused CPU step of the TopK family: one thread a seed, many steps a call, nothing dense but the encoder product.

Only `engines` imports this module. A seed's whole trajectory runs on one thread in a fixed order, so its bytes depend
neither on the number of threads nor on which other seeds are in the batch. The arithmetic is that of the autograd path
(`engines.loss` of a TopK SAE, AuxK, parallel gradient removed, clipping, Adam, unit decoder rows).
"""

import numba
import numpy as np

FAST = {"reassoc", "contract", "nsz", "arcp"}
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _select(pre, allowed, masked, k, signed, chosen):
    """Write the indices of the k largest entries of `pre` into `chosen`; return how many (fewer when not positive).

    A threshold is bisected until exactly k entries exceed it; ties at the threshold are taken in index order.
    """
    n = pre.shape[0]
    low, high = np.inf, -np.inf
    for j in range(n):
        low, high = min(low, pre[j]), max(high, pre[j])
    if not signed:
        low = max(low, pre.dtype.type(0))
    above_low = 0
    for j in range(n):
        above_low += pre[j] > low and (not masked or allowed[j])
    if above_low > k:
        for _ in range(60):
            middle = (low + high) * pre.dtype.type(0.5)
            if middle <= low or middle >= high:
                break
            above = 0
            if masked:
                for j in range(n):
                    above += pre[j] > middle and allowed[j]
            else:
                for j in range(n):
                    above += pre[j] > middle
            if above >= k:
                low = middle
            else:
                high = middle
            if above == k:
                break
    count = 0
    for j in range(n):
        if pre[j] > low and (not masked or allowed[j]) and count < chosen.shape[0]:
            chosen[count] = j
            count += 1
    if count > k:
        count = _drop_smallest(pre, chosen, count, k)
    if signed and count < k:
        for j in range(n):
            if pre[j] == low and count < k:
                chosen[count] = j
                count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _drop_smallest(pre, chosen, count, k):
    """Keep the k largest of `count` chosen entries (bisection ended on neighbouring floats)."""
    while count > k:
        worst = 0
        for i in range(1, count):
            if pre[chosen[i]] <= pre[chosen[worst]]:
                worst = i
        for i in range(worst, count - 1):
            chosen[i] = chosen[i + 1]
        count -= 1
    return count


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _decode(pre, chosen, count, decoder, out):
    """Add the chosen latents' contributions to `out`."""
    for i in range(count):
        j = chosen[i]
        z = pre[j]
        for c in range(out.shape[0]):
            out[c] += z * decoder[j, c]


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _scatter(pre, x, gradient, chosen, count, encoder, decoder, g_encoder, g_bias, g_decoder, g_centre):
    """Add one row's gradients: `gradient` is the loss gradient with respect to that row's reconstruction."""
    d = x.shape[0]
    for i in range(count):
        j = chosen[i]
        z = pre[j]
        dz = pre.dtype.type(0)
        for c in range(d):
            dz += gradient[c] * decoder[j, c]
        for c in range(d):
            g_decoder[j, c] += z * gradient[c]
            g_encoder[j, c] += dz * x[c]
            g_centre[c] -= dz * encoder[j, c]
        g_bias[j] += dz


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _adam(parameter, gradient, first, second, factor, rate, correction1, correction2):
    """One Adam step on a flat array; `factor` scales the gradient (clipping), which is zeroed for the next step."""
    one = parameter.dtype.type(1)
    b1, b2 = parameter.dtype.type(BETA1), parameter.dtype.type(BETA2)
    epsilon = parameter.dtype.type(EPSILON)
    for i in range(parameter.shape[0]):
        g = gradient[i] * factor
        first[i] = b1 * first[i] + (one - b1) * g
        second[i] = b2 * second[i] + (one - b2) * g * g
        parameter[i] -= rate * (first[i] / correction1) / (np.sqrt(second[i] / correction2) + epsilon)
        gradient[i] = 0


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _project(gradient, decoder):
    """Remove from each gradient row its part along the unit decoder row."""
    for j in range(decoder.shape[0]):
        along = decoder.dtype.type(0)
        for c in range(decoder.shape[1]):
            along += gradient[j, c] * decoder[j, c]
        for c in range(decoder.shape[1]):
            gradient[j, c] -= along * decoder[j, c]


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _normalise(decoder):
    for j in range(decoder.shape[0]):
        square = decoder.dtype.type(0)
        for c in range(decoder.shape[1]):
            square += decoder[j, c] * decoder[j, c]
        scale = decoder.dtype.type(1) / np.sqrt(square)
        for c in range(decoder.shape[1]):
            decoder[j, c] *= scale


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _square_norm(x):
    total = x.dtype.type(0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    return total


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def _one_seed(x, order, rates, start, encoder, bias, decoder, centre, moments, silent, recipe, losses):
    """Run len(rates) steps of one seed in place; losses[t] = (reconstruction, auxiliary) of step t."""
    k, signed, train_centre, project, clip, auxk, dead_after, k_aux = recipe
    batch, d, n = order.shape[1], x.shape[1], bias.shape[0]
    kind = x.dtype.type
    g_encoder, g_decoder = np.zeros_like(encoder), np.zeros_like(decoder)
    g_bias, g_centre = np.zeros_like(bias), np.zeros_like(centre)
    rows, pre = np.empty((batch, d), x.dtype), np.empty((batch, n), x.dtype)
    error, residual = np.empty(d, x.dtype), np.empty(d, x.dtype)
    chosen, fired, dead = (
        np.empty(max(2 * k, k_aux) + 8, np.int64),
        np.zeros(n, np.bool_),
        np.zeros(n, np.bool_),
    )
    scale = kind(2.0 / (batch * d))
    for t in range(rates.shape[0]):
        for b in range(batch):
            for c in range(d):
                rows[b, c] = x[order[t, b], c] - centre[c]
        np.dot(rows, encoder.T, pre)
        n_dead = 0
        for j in range(n):
            fired[j], dead[j] = False, auxk > 0 and silent[j] >= dead_after
            n_dead += dead[j]
        for b in range(batch):
            for j in range(n):
                pre[b, j] += bias[j]
            count = _select(pre[b], dead, False, k, signed, chosen)
            for c in range(d):
                error[c] = -rows[b, c]
            _decode(pre[b], chosen, count, decoder, error)
            losses[t, 0] += _square_norm(error) / (batch * d)
            for i in range(count):
                fired[chosen[i]] = True
            for c in range(d):
                residual[c] = error[c]
                error[c] *= scale
                g_centre[c] += error[c]
            _scatter(
                pre[b],
                rows[b],
                error,
                chosen,
                count,
                encoder,
                decoder,
                g_encoder,
                g_bias,
                g_decoder,
                g_centre,
            )
            if n_dead > 0:
                count = _select(pre[b], dead, True, min(k_aux, n_dead), False, chosen)
                _decode(pre[b], chosen, count, decoder, residual)
                losses[t, 1] += _square_norm(residual) / (batch * d)
                for c in range(d):
                    residual[c] *= scale * kind(auxk)
                _scatter(
                    pre[b],
                    rows[b],
                    residual,
                    chosen,
                    count,
                    encoder,
                    decoder,
                    g_encoder,
                    g_bias,
                    g_decoder,
                    g_centre,
                )
        for j in range(n):
            silent[j] = 0 if fired[j] else silent[j] + 1
        if project:
            _project(g_decoder, decoder)
        if not train_centre:
            g_centre[:] = 0
        factor = kind(1)
        if clip > 0:
            square = _square_norm(g_encoder.ravel()) + _square_norm(g_decoder.ravel())
            square += _square_norm(g_bias) + _square_norm(g_centre)
            factor = min(kind(1), kind(clip) / (np.sqrt(square) + kind(1e-6)))
        step = start + t + 1
        c1, c2 = kind(1 - BETA1**step), kind(1 - BETA2**step)
        rate = kind(rates[t])
        _adam(
            encoder.ravel(), g_encoder.ravel(), moments[0].ravel(), moments[1].ravel(), factor, rate, c1, c2
        )
        _adam(
            decoder.ravel(), g_decoder.ravel(), moments[2].ravel(), moments[3].ravel(), factor, rate, c1, c2
        )
        _adam(bias, g_bias, moments[4], moments[5], factor, rate, c1, c2)
        if train_centre:
            _adam(centre, g_centre, moments[6], moments[7], factor, rate, c1, c2)
        _normalise(decoder)


@numba.njit(parallel=True, nogil=True, cache=True)
def topk_steps(x, order, rates, start, encoder, decoder, bias, centre, moments, silent, recipe, losses):
    """Advance every seed in place by len(rates) steps.

    x [n, d]; order [seeds, steps, batch] row indices; rates [steps]; encoder and decoder [seeds, d_sae, d] (encoder
    transposed, so that both are read and written by rows); moments two arrays a weight
    (encoder, decoder, bias, centre); losses [seeds, steps, 2].
    """
    for s in numba.prange(order.shape[0]):
        m = (
            moments[0][s], moments[1][s], moments[2][s], moments[3][s],
            moments[4][s], moments[5][s], moments[6][s], moments[7][s],
        )  # fmt: skip
        _one_seed(
            x,
            order[s],
            rates,
            start,
            encoder[s],
            bias[s],
            decoder[s],
            centre[s],
            m,
            silent[s],
            recipe,
            losses[s],
        )
