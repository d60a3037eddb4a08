"""Minimum and maximum in a window around each pixel, in a fraction of scipy's or Pillow's time."""

from collections.abc import Callable
from typing import Any

import numpy as np


def slide(
    values: np.ndarray, length: int, axis: int, combine: Callable[..., np.ndarray]
) -> np.ndarray:
    """Combine each `length` neighbors along an axis, without those that reach beyond an edge.

    The array is shifted by 1, 2, 4, ... pixels over itself.

    Args:
        values: `(..., N, ...)`, N not less than `length`.
        length: In pixels.
        axis: Which one.
        combine: What doesn't mind seeing a value twice, such as `np.maximum`.

    Returns:
        `(..., N - length + 1, ...)`.
    """
    before: list[Any] = [slice(None)] * values.ndim
    after = before.copy()
    have = 1
    while have < length:
        step = min(have, length - have)
        before[axis], after[axis] = slice(-step), slice(step, None)
        values = combine(values[tuple(before)], values[tuple(after)])
        have += step
    return values


def pad(values: np.ndarray, axis: int, before: int, after: int) -> np.ndarray:
    """Put zeros before and after an array's values along an axis."""
    shape, inside = list(values.shape), [slice(None)] * values.ndim
    inside[axis] = slice(before, before + shape[axis])
    shape[axis] += before + after
    padded = np.zeros(shape, values.dtype)
    padded[tuple(inside)] = values
    return padded


def dilate(values: np.ndarray, *lengths: int) -> np.ndarray:
    """Return the maximum in a window around each pixel; beyond the edge there is nothing.

    Args:
        values: 0 or more, of any dtype.
        lengths: The window's, along the first axes; of an even one the larger half lies before.
    """
    for axis, length in enumerate(lengths):
        if length > 1:
            padded = pad(values, axis, length // 2, (length - 1) // 2)
            values = slide(padded, length, axis, np.maximum)
    return values


def erode(values: np.ndarray, *lengths: int) -> np.ndarray:
    """Return the minimum in a window around each pixel; beyond the edge there is nothing.

    Args:
        values: uint8 or bool.
        lengths: See `dilate`.
    """
    return ~dilate(~values, *lengths)
