"""What torch does in many passes over a tile of cosines, or Python an edge at a time."""

import numba
import numpy as np

# without care for NaN, or it is not done in whole vectors; compiled in every process: kept, it would need a place
compiled = numba.njit(fastmath={"nnan", "nsz", "reassoc"}, error_model="numpy", nogil=True)


@compiled
def count(tile, first, last, row_floor, column_floor, ends):
    """Fill ends[i + 1] with how many entries of row i, of rows first..last, reach the floor of row or column."""
    for i in range(first, last):
        line, floor, found = tile[i], row_floor[i], np.float32(0)  # a float, because those add in whole vectors
        for j in range(column_floor.shape[0]):
            found += np.float32(1) if line[j] >= min(floor, column_floor[j]) else np.float32(0)
        ends[i + 1] = int(found)


@compiled
def collect(tile, first, last, row_floor, column_floor, ends, columns, values):
    """Write them, columns and values, from ends[i] on."""
    for i in range(first, last):
        line, floor, at = tile[i], row_floor[i], ends[i]
        for j in range(column_floor.shape[0]):
            if line[j] >= min(floor, column_floor[j]):
                columns[at], values[at] = j, line[j]
                at += 1


@compiled
def take_greedily(rows, columns, taken_rows, taken_columns):
    """Mark the rows and columns of edges that have neither when their turn comes."""
    for edge in range(rows.shape[0]):
        i, j = rows[edge], columns[edge]
        if not (taken_rows[i] or taken_columns[j]):
            taken_rows[i] = taken_columns[j] = True
