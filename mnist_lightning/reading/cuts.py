"""Ink that hangs together -> where it may be cut into digits."""

import numpy as np

# What a cut costs, as the logarithm of a probability does, beside the ink that it crosses
CUT = 0.3
LEAST = 0.05  # of the ink, that a cut cuts off
MOST_CUTS = 16  # for each height of the line in the ink's width
STEP = 0.06  # of the line's height, between cuts that are tried
SLOPES = (-0.6, -0.3, 0.0, 0.3, 0.6)  # columns for a row, of those


def find_cuts(ink: np.ndarray, height: float) -> list[tuple[np.ndarray, float]]:
    """Return ways to cut ink from top to bottom that cross little of it.

    Args:
        ink: float32 `(H, W)`.
        height: The line's height.

    Returns:
        Of each cut a column for each row, int `(H,)`, and what it costs; from left to right.
    """
    tall, wide = ink.shape
    step = max(2, round(STEP * height))
    places = np.arange(2 * step, wide - 2 * step + 1, step)
    if not len(places):
        return []
    slopes = np.repeat(SLOPES, len(places))
    lines = np.tile(places, len(SLOPES))[:, None] + slopes[:, None] * (np.arange(tall) - tall / 2)
    paths, crossed = _paths(ink, lines.round().astype(int), step)
    # The ink at the left of each, in each row
    ink_left = np.pad(ink.cumsum(axis=1), ((0, 0), (1, 0)))[np.arange(tall), paths]
    shares = ink_left.sum(axis=1) / ink.sum()
    chosen: list[int] = []
    for i in np.argsort(crossed):  # the cheapest of those that cut off nearly the same
        if len(chosen) == round(MOST_CUTS * max(1, wide / height)):
            break
        others = np.abs(ink_left[i] - ink_left[chosen]).sum(axis=1) / ink.sum()
        if LEAST < shares[i] < 1 - LEAST and (others > LEAST).all():
            chosen.append(int(i))
    chosen.sort(key=lambda i: float(shares[i]))
    return [(paths[i], CUT + float(crossed[i]) / height) for i in chosen]


def _paths(ink: np.ndarray, lines: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each line the way from top to bottom beside it that crosses least ink.

    Args:
        ink: float32 `(H, W)`.
        lines: int `(N, H)`, a column for each row.
        reach: How far a way may lie from its line, in columns.

    Returns:
        The ways' columns, int `(N, H)`, and the ink that each crosses, float `(N,)`.
    """
    tall, wide = ink.shape
    aside = np.arange(-reach, reach + 1)
    columns = (lines.T[:, :, None] + aside).clip(0, wide - 1)  # (H, N, R)
    costs = ink[np.arange(tall)[:, None, None], columns] + 0.02 * np.abs(aside) / reach
    total = costs[0]
    came = np.zeros(columns.shape, np.int8)
    around = np.full((3, *total.shape), np.inf, np.float32)
    for row in range(1, tall):
        around[0, :, 1:] = total[:, :-1] + 0.01
        around[1] = total
        around[2, :, :-1] = total[:, 1:] + 0.01
        came[row] = around.argmin(axis=0) - 1
        total = around.min(axis=0) + costs[row]
    at, number = total.argmin(axis=1), np.arange(len(lines))
    crossed = np.zeros(len(lines))
    paths = np.empty(lines.shape, int)
    for row in range(tall - 1, -1, -1):
        paths[:, row] = columns[row, number, at]
        crossed += ink[row, paths[:, row]]
        at = at + came[row, number, at]
    return paths, crossed
