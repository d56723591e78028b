"""What the fused step does to one row of weights: its squared norm, an Adam step, unit length."""

import numpy as np

from husai.kernels.selection import compiled

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@compiled
def square_norm(x):
    """Return the sum of squares."""
    total = x.dtype.type(0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    return total


@compiled
def adam(parameter, gradient, first, second, factor, rate, root):
    """One Adam step on a row; rate = lr / (1 - beta1^t), root = (1 - beta2^t)^(-1/2), `factor` clips the gradient."""
    one, epsilon = parameter.dtype.type(1), parameter.dtype.type(EPSILON)
    b1, b2 = parameter.dtype.type(BETA1), parameter.dtype.type(BETA2)
    for i in range(parameter.shape[0]):
        g = gradient[i] * factor
        m = b1 * first[i] + (one - b1) * g
        v = b2 * second[i] + (one - b2) * g * g
        first[i], second[i] = m, v
        parameter[i] -= rate * m / (np.sqrt(v) * root + epsilon)


@compiled
def normalise(row):
    """Scale a row to unit length in place."""
    scale = row.dtype.type(1) / np.sqrt(square_norm(row))
    for c in range(row.shape[0]):
        row[c] *= scale
