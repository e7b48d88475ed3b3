"""Seconds of a forward by the tokens in it, as measured: a curve with the kinks that quantized kernels have."""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from actors.line_fit import LineFit

Seconds = Callable[[npt.ArrayLike], npt.NDArray[np.float64]]

# Exact where kernels change from one token to the next, coarser where they do not.
KNOTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 1024)
DECAY = 0.9  # of what a knot remembers, at each new measurement
MAX_SURPRISE = 2.0  # times the usual that a measurement counts for at most: the machine may have been elsewhere


class StepCurve:
    """Means near each knot that was visited, straight lines between, and the trend of all beyond."""

    def __init__(self, intercept: float, slope: float, *, prior_x: float) -> None:
        self._line = LineFit(intercept, slope, prior_x=prior_x)
        self._sums: dict[int, tuple[float, float, float]] = {}  # by knot: weight, tokens, seconds

    @property
    def num_knots(self) -> int:
        """How many places of the curve were visited."""
        return len(self._sums)

    def add(self, num_tokens: int, seconds: float) -> None:
        """Enter one forward."""
        knot = bisect_right(KNOTS, num_tokens) - 1
        weight, tokens, total = self._sums.get(knot, (0.0, 0.0, 0.0))
        if weight >= 1.0:
            seconds = min(seconds, MAX_SURPRISE * total / weight)
        self._line.add(num_tokens, seconds)
        self._sums[knot] = (weight * DECAY + 1.0, tokens * DECAY + num_tokens, total * DECAY + seconds)

    def num_within(self, num_tokens: int, factor: float) -> int:
        """Return how many tokens a forward may have for ``factor`` times what ``num_tokens`` cost, on the safe side."""
        costs = self.seconds()([num_tokens, *KNOTS])
        return max((knot for knot, cost in zip(KNOTS, costs[1:], strict=True) if cost <= factor * costs[0]), default=0)

    def seconds(self) -> Seconds:
        """Return the curve as it is now, never falling with the number of tokens."""
        intercept, slope = self._line.coefficients()
        if not self._sums:
            return lambda x: intercept + slope * np.asarray(x, dtype=np.float64)
        points = [(tokens / weight, total / weight) for _, (weight, tokens, total) in sorted(self._sums.items())]
        xs = np.array([x for x, _ in points])
        ys = np.maximum.accumulate([y for _, y in points])
        base = max(0.0, float(ys[0]) - slope * float(xs[0]))

        def curve(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
            at = np.asarray(x, dtype=np.float64)
            inside: npt.NDArray[np.float64] = np.interp(at, xs, ys)
            below = np.where(at < xs[0], base + (ys[0] - base) * at / xs[0], inside)
            return np.where(at > xs[-1], ys[-1] + slope * (at - xs[-1]), below)

        return curve
