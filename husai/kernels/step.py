"""The fused CPU step of the TopK family: many steps of one seed a call, nothing dense but the encoder product.

A step of a seed is computed by one thread in a fixed order, so its bytes depend neither on the number of threads nor
on which other seeds are in the batch. The arithmetic is that of the autograd path: selection, nested
reconstructions, AuxK, parallel gradient removed, clipping, Adam, unit decoder rows.

Gradients are gathered by latent instead of scattered by input. Every active latent of every input is one entry
(latent, gradient row, value), and entries are sorted by latent: a latent's decoder row and both of its gradient rows
stay in the first-level cache while its entries are read. An input has one gradient row a level: one for TopK, one a
prefix for a nested objective, and a last one for the auxiliary loss of dead latents.
"""

from collections import namedtuple

import numpy as np

from husai.kernels.rows import BETA1, BETA2, adam, normalise, square_norm
from husai.kernels.selection import collect, compiled, select_among, sort_by_value, threshold

Recipe = namedtuple(
    "Recipe",
    "by_batch signed levels by_rank transcoder centred aligned project unit encodes_from decodes_from l2 clip_norm auxk"
    " dead_after k_aux",
)
"""by_batch: the k * batch largest of a whole batch are kept, else k a row; levels: last latent (or, `by_rank`, last
rank) of every nested reconstruction; centred: whether the decoder bias is trained; encodes_from, decodes_from: the
first latent whose encoder row and bias, and whose decoder row, is trained; unit: whether these are renormalised."""

Scratch = namedtuple(
    "Scratch",
    "rows pre packed chosen latent row value sorted_row sorted_value first gradients error"
    " g_encoder g_decoder g_bias effective",
)


@compiled
def _add_entries(values, begin, end, b, level, s, entries):
    """Append the chosen latents begin:end of input b as entries that receive its gradient of `level`."""
    end = min(end, begin + s.latent.shape[0] - entries)  # only values that are not finite could exceed the space
    for i in range(begin, end):
        s.latent[entries] = s.chosen[i]
        s.row[entries] = level * s.rows.shape[0] + b
        s.value[entries] = values[s.chosen[i]]
        entries += 1
    return entries


@compiled
def _decode(values, chosen, begin, end, decoder, out):
    """Add the contributions of latents chosen[begin:end] to `out`."""
    for i in range(begin, end):
        z, row = values[chosen[i]], decoder[chosen[i]]
        for c in range(out.shape[0]):
            out[c] += z * row[c]


@compiled
def _inputs(x, centre, order, transcoder, rows):
    """Gather a batch, centred by the decoder bias unless the target is another activation."""
    for b in range(order.shape[0]):
        source, row = x[order[b]], rows[b]
        if transcoder:
            row[:] = source
        else:
            for c in range(row.shape[0]):
                row[c] = source[c] - centre[c]


@compiled
def _forward(y, order, k, decoder, centre, recipe, dead, fired, levels, s, loss):
    """Select, decode and score a batch: fills entries and gradient rows; return the number of entries."""
    batch, d = order.shape[0], y.shape[1]
    weight = y.dtype.type(2.0 / (batch * d * levels.shape[0]))
    flat, error = s.pre.ravel(), s.error
    level, ties, slope, guess = y.dtype.type(0), 0, 0.0, (y.dtype.type(0), 0.0)
    if recipe.by_batch:
        level, ties, slope = threshold(flat, k * batch, False, (level, slope))
    entries = 0
    for b in range(batch):
        values = s.pre[b]
        if not recipe.by_batch:
            level, ties, slope = threshold(values, k, recipe.signed, (level, slope))
        count, ties = collect(values, level, ties, s.chosen)
        if recipe.by_rank:
            sort_by_value(values, s.chosen, count)
        for i in range(count):
            fired[s.chosen[i]] |= values[s.chosen[i]] != 0
        target = y[order[b]]
        for c in range(d):
            error[c] = centre[c] - target[c]
        begin = 0
        for g in range(levels.shape[0]):
            end = begin
            while end < count and (end if recipe.by_rank else s.chosen[end]) < levels[g]:
                end += 1
            _decode(values, s.chosen, begin, end, decoder, error)
            loss[0] += square_norm(error) / (batch * d * levels.shape[0])
            gradient = s.gradients[g * batch + b]
            for c in range(d):
                gradient[c] = weight * error[c]
            entries = _add_entries(values, begin, end, b, g, s, entries)
            begin = end
        for g in range(levels.shape[0] - 2, -1, -1):  # a latent of group g is part of every later reconstruction
            gradient, later = s.gradients[g * batch + b], s.gradients[(g + 1) * batch + b]
            for c in range(d):
                gradient[c] += later[c]
        if dead.shape[0] > 0:
            _decode(values, s.chosen, begin, count, decoder, error)  # latents beyond the last budget
            row = levels.shape[0] * batch + b
            count, guess = select_among(values, dead, recipe.k_aux, guess, s.packed, s.chosen)
            _decode(values, s.chosen, 0, count, decoder, error)
            loss[1] += square_norm(error) / (batch * d)
            gradient, weight_dead = s.gradients[row], y.dtype.type(2.0 * recipe.auxk / (batch * d))
            for c in range(d):
                gradient[c] = weight_dead * error[c]
            entries = _add_entries(values, 0, count, b, levels.shape[0], s, entries)
    return entries


@compiled
def _sort_by_latent(entries, s):
    """Counting sort: entries of latent j are first[j] to first[j + 1] of the sorted arrays, inputs in order."""
    s.first[:] = 0
    for i in range(entries):
        s.first[s.latent[i] + 2] += 1
    for j in range(2, s.first.shape[0]):
        s.first[j] += s.first[j - 1]
    for i in range(entries):
        at = s.first[s.latent[i] + 1]
        s.first[s.latent[i] + 1] = at + 1
        s.sorted_row[at] = s.row[i]
        s.sorted_value[at] = s.value[i]


@compiled
def _backward(encoder, decoder, pull, recipe, s):
    """Fill the gradients of encoder, bias and decoder, latent by latent; return the squared norm of what is trained.

    `pull`, if it has rows, is the part of the decoder's gradient that does not come from the batch.
    """
    batch, d_in, d_out = s.rows.shape[0], encoder.shape[1], decoder.shape[1]
    square = encoder.dtype.type(0)
    for j in range(decoder.shape[0]):
        d_row, g_dec, g_enc = decoder[j], s.g_decoder[j], s.g_encoder[j]
        g_dec[:] = 0
        g_enc[:] = 0
        g_bias = encoder.dtype.type(0)
        for i in range(s.first[j], s.first[j + 1]):
            z, gradient = s.sorted_value[i], s.gradients[s.sorted_row[i]]
            x_row = s.rows[s.sorted_row[i] % batch]
            dz = encoder.dtype.type(0)
            for c in range(d_out):
                dz += gradient[c] * d_row[c]
                g_dec[c] += z * gradient[c]
            for c in range(d_in):
                g_enc[c] += dz * x_row[c]
            g_bias += dz
        s.g_bias[j] = g_bias
        if recipe.aligned:  # e = d + u - <u, d> d: from the gradient of e to those of u and d
            u, along, inner = encoder[j], encoder.dtype.type(0), encoder.dtype.type(0)
            for c in range(d_in):
                along += g_enc[c] * d_row[c]
                inner += u[c] * d_row[c]
            for c in range(d_in):
                g_dec[c] += (1 - inner) * g_enc[c] - along * u[c]
                g_enc[c] -= along * d_row[c]
        if pull.shape[0] > 0:
            for c in range(d_out):
                g_dec[c] += pull[j, c]
        if recipe.l2 > 0:
            for c in range(d_out):
                g_dec[c] += encoder.dtype.type(2 * recipe.l2) * d_row[c]
            for c in range(d_in):
                g_enc[c] += encoder.dtype.type(2 * recipe.l2) * encoder[j, c]
        if recipe.project:
            along = encoder.dtype.type(0)
            for c in range(d_out):
                along += g_dec[c] * d_row[c]
            for c in range(d_out):
                g_dec[c] -= along * d_row[c]
        if j >= recipe.decodes_from:
            square += square_norm(g_dec)
        if j >= recipe.encodes_from:
            square += square_norm(g_enc) + g_bias * g_bias
    return square


@compiled
def _centre_gradient(gradients, effective, g_bias, batch, transcoder, out):
    """Fill the gradient of the decoder bias: directly, and through the centred input unless a transcoder."""
    out[:] = 0
    for b in range(batch):
        for c in range(out.shape[0]):
            out[c] += gradients[b, c]
    if not transcoder:
        for j in range(effective.shape[0]):
            for c in range(out.shape[0]):
                out[c] -= g_bias[j] * effective[j, c]


@compiled
def _align(encoder, decoder, effective):
    """Fill the effective encoder e = d + u - <u, d> d, for which <e, d> = 1."""
    for j in range(encoder.shape[0]):
        inner = encoder.dtype.type(0)
        for c in range(encoder.shape[1]):
            inner += encoder[j, c] * decoder[j, c]
        for c in range(encoder.shape[1]):
            effective[j, c] = encoder[j, c] + (1 - inner) * decoder[j, c]


@compiled
def _scratch(batch, levels, entries, encoder, decoder, aligned):
    n, d_in, d_out, dtype = encoder.shape[0], encoder.shape[1], decoder.shape[1], encoder.dtype
    return Scratch(
        np.empty((batch, d_in), dtype),
        np.empty((batch, n), dtype),
        np.empty(n, dtype),
        np.empty(n + 1, np.int64),
        np.empty(entries, np.int32),
        np.empty(entries, np.int32),
        np.empty(entries, dtype),
        np.empty(entries, np.int32),
        np.empty(entries, dtype),
        np.empty(n + 2, np.int64),
        np.empty(((levels + 1) * batch, d_out), dtype),
        np.empty(d_out, dtype),
        np.empty_like(encoder),
        np.empty_like(decoder),
        np.empty(n, dtype),
        np.empty_like(encoder) if aligned else encoder,
    )


@compiled
def topk_steps(x, y, order, rates, ks, start, weights, moments, silent, pull, recipe, losses):
    """Advance one seed in place by len(rates) steps.

    x [n, d_in] inputs and y [n, d_out] targets; order [steps, batch] row indices; rates and ks [steps]; weights
    (encoder [d_sae, d_in], decoder [d_sae, d_out], bias, centre), updated as the recipe says, as are their two Adam
    moments each and `silent`; pull [d_sae or 0, d_out] adds to the decoder's gradient; losses
    [steps, 2] receives reconstruction and auxiliary loss.
    """
    encoder, decoder, bias, centre = weights
    batch, n = order.shape[1], bias.shape[0]
    kind = encoder.dtype.type
    n_levels = len(recipe.levels) if len(recipe.levels) > 0 else ks.max()
    s = _scratch(batch, n_levels, batch * (ks.max() + recipe.k_aux), encoder, decoder, recipe.aligned)
    dead, fired, g_centre = np.empty(n, np.int64), np.zeros(n, np.bool_), np.zeros_like(centre)
    for t in range(rates.shape[0]):
        if recipe.aligned:
            _align(encoder, decoder, s.effective)
        _inputs(x, centre, order[t], recipe.transcoder, s.rows)
        np.dot(s.rows, s.effective.T, s.pre)
        n_dead = 0
        for j in range(n):
            fired[j], dead[n_dead] = False, j
            n_dead += recipe.auxk > 0 and silent[j] >= recipe.dead_after
        for b in range(batch):
            values = s.pre[b]
            for j in range(n):
                values[j] += bias[j]
        levels = recipe.levels if len(recipe.levels) > 0 else np.arange(1, ks[t] + 1)
        entries = _forward(y, order[t], ks[t], decoder, centre, recipe, dead[:n_dead], fired, levels, s, losses[t])
        if not np.isfinite(losses[t, 0] + losses[t, 1]):
            break
        _sort_by_latent(entries, s)
        square = _backward(encoder, decoder, pull, recipe, s)
        for j in range(n):
            silent[j] = 0 if fired[j] else silent[j] + 1
        if recipe.centred:
            _centre_gradient(s.gradients, s.effective, s.g_bias, batch, recipe.transcoder, g_centre)
            square += square_norm(g_centre)
        factor = kind(1)
        if recipe.clip_norm > 0:
            factor = min(factor, kind(recipe.clip_norm) / (np.sqrt(square) + kind(1e-6)))
        step = start + t + 1
        rate, root = kind(rates[t] / (1 - BETA1**step)), kind(1 / np.sqrt(1 - BETA2**step))
        for j in range(n):
            if j >= recipe.encodes_from:
                adam(encoder[j], s.g_encoder[j], moments[0][j], moments[1][j], factor, rate, root)
            if j >= recipe.decodes_from:
                adam(decoder[j], s.g_decoder[j], moments[2][j], moments[3][j], factor, rate, root)
                if recipe.unit:
                    normalise(decoder[j])
        free = recipe.encodes_from
        adam(bias[free:], s.g_bias[free:], moments[4][free:], moments[5][free:], factor, rate, root)
        if recipe.centred:
            adam(centre, g_centre, moments[6], moments[7], factor, rate, root)
