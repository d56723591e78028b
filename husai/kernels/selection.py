"""The k largest entries of a row or of a batch, exactly and without sorting: a level that k of them exceed."""

import numba
import numpy as np

compiled = numba.njit(fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy", nogil=True, cache=True)


@numba.njit(fastmath=True, nogil=True, cache=True)  # without care for NaN, or it is not done in whole vectors
def _extremes(values):
    low, high = values[0], values[0]
    for j in range(values.shape[0]):
        low, high = min(low, values[j]), max(high, values[j])
    return low, high


@compiled
def _count_above(values, level):
    """Return how many entries exceed `level`, counted in floats because those add in whole vectors."""
    one, zero = values.dtype.type(1), values.dtype.type(0)
    above = zero
    for j in range(values.shape[0]):
        above += one if values[j] > level else zero
    return int(above)


@compiled
def _next_below(values, level):
    """Return the largest value below `level`, and how many entries equal it."""
    below, equal = values.dtype.type(-np.inf), 0
    for j in range(values.shape[0]):
        if values[j] < level:
            if values[j] > below:
                below, equal = values[j], 0
            equal += values[j] == below
    return below, equal


@compiled
def threshold(values, k, signed, guess):
    """Return (level, ties, slope): the k largest are the entries above `level` and the first `ties` that equal it.

    Fewer than k positive entries give level 0 unless `signed`. The logarithm of the count is nearly linear in the
    level, so the level is sought by secants from guess = (level, slope) of a similar row, and bisected where they
    leave the bracket; what both leave open (values that are equal or nearly so) is settled value by value.
    """
    half, high = values.dtype.type(0.5), values.dtype.type(np.inf)
    low = values.dtype.type(-np.inf) if signed else values.dtype.type(0)
    middle, slope = guess
    previous, previous_log, above_high, bounded = middle, np.inf, 0, False
    for evaluation in range(60):
        if evaluation > 12 or not low < middle < high:
            if not bounded:
                least, most = _extremes(values)
                low, high, bounded = max(low, least), min(high, most), True
                above = _count_above(values, low)
                if above <= k:
                    return low, k - above if signed or low > 0 else 0, slope
            middle = (low + high) * half
            if middle <= low or middle >= high:
                break
        above = _count_above(values, middle)
        if above == k:
            return middle, 0, slope
        log = np.log(max(above, 0.5) / k)
        if previous_log < np.inf and log != previous_log:
            slope = (log - previous_log) / (middle - previous)
        previous, previous_log = middle, log
        if above > k:
            low = middle
        else:
            high, above_high = middle, above
        middle -= values.dtype.type(log / slope) if slope < 0 else middle - low
    level, equal = _next_below(values, np.nextafter(high, values.dtype.type(np.inf)))
    while above_high + equal < k and level > low:
        above_high += equal
        level, equal = _next_below(values, level)
    return level, k - above_high, slope


@compiled
def collect(values, level, ties, chosen):
    """Write the indices of the entries above `level`, and of `ties` that equal it, in order; return how many."""
    count = 0
    if ties > 0:
        for j in range(values.shape[0]):
            tie = values[j] == level and ties > 0
            if values[j] > level or tie:
                chosen[count] = j
                count += 1
                ties -= tie
    else:
        for j in range(values.shape[0]):
            chosen[count] = j
            count += values[j] > level
    return count, ties


@compiled
def select_among(values, indices, k, guess, packed, chosen):
    """Write those of `indices` whose values are the k largest above 0, in order; return (how many, the next guess).

    Their values are packed into the start of `packed`, so that selecting reads no other entry of the row.
    """
    few, ties = packed[: indices.shape[0]], 0
    for i in range(indices.shape[0]):
        few[i] = values[indices[i]]
    level, slope = values.dtype.type(0), guess[1]  # where there are no more than k, all above 0 are wanted
    if k < indices.shape[0]:
        level, ties, slope = threshold(few, k, False, guess)
        guess = (level, slope)
    count, _ = collect(few, level, ties, chosen)
    for i in range(count):
        chosen[i] = indices[chosen[i]]
    return count, guess


@compiled
def sort_by_value(values, chosen, count):
    """Sort the chosen indices by falling value, equal ones by index."""
    for i in range(1, count):
        j, at = chosen[i], i
        while at > 0 and values[chosen[at - 1]] < values[j]:
            chosen[at] = chosen[at - 1]
            at -= 1
        chosen[at] = j
