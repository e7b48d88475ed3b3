"""A straight line through noisy timings, learnt as they come and forgetting old ones."""

from collections.abc import Callable


class LineFit:
    """Least squares of ``y = intercept + slope * x`` with exponentially decaying weights.

    The prior is two pseudo-observations on a given line, so that the fit is defined from the start and stays so while
    every x is the same. Both coefficients are kept from falling below zero: a forward of more tokens is never free.
    """

    def __init__(self, intercept: float, slope: float, *, prior_x: float, decay: float = 0.98) -> None:
        self._decay = decay
        self._prior = [(1.0, intercept + slope), (prior_x, intercept + slope * prior_x)]
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Enter one observation."""
        self._weight = self._weight * self._decay + 1.0
        self._x = self._x * self._decay + x
        self._y = self._y * self._decay + y
        self._xx = self._xx * self._decay + x * x
        self._xy = self._xy * self._decay + x * y

    def line(self) -> Callable[[float], float]:
        """Return the line as it is now."""
        intercept, slope = self.coefficients()
        return lambda x: intercept + slope * x

    def coefficients(self) -> tuple[float, float]:
        """Return intercept and slope."""
        # The prior's weight shrinks as evidence grows, on the scale that the evidence has shown.
        scale = self._y / (self._weight * self._prior_y()) if self._weight else 1.0
        prior_weight = 1.0 / (1.0 + 0.25 * self._weight)
        weight, sum_x, sum_y, sum_xx, sum_xy = self._weight, self._x, self._y, self._xx, self._xy
        for x, y in self._prior:
            weight += prior_weight
            sum_x += prior_weight * x
            sum_y += prior_weight * y * scale
            sum_xx += prior_weight * x * x
            sum_xy += prior_weight * x * y * scale
        mean_x, mean_y = sum_x / weight, sum_y / weight
        variance = sum_xx / weight - mean_x * mean_x
        slope = max(0.0, (sum_xy / weight - mean_x * mean_y) / variance) if variance > 1e-12 else 0.0
        intercept = mean_y - slope * mean_x
        if intercept < 0.0:
            return 0.0, mean_y / mean_x
        return intercept, slope

    def _prior_y(self) -> float:
        """Return the prior line's value at the mean x seen, in the unit of y."""
        (x0, y0), (x1, y1) = self._prior
        slope = (y1 - y0) / (x1 - x0)
        return y0 + slope * (self._x / self._weight - x0)
