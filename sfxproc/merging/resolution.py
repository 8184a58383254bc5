"""How far the data reach, from CC½ by resolution.

The fall of CC½ is described by

    CC½(s²) = ½ (1 − tanh((s² − s₀)/r))

(Evans & Murshudov 2013, Acta Cryst. D69, 1204), fitted with the standard error of each shell's
CC½. It crosses c at s² = s₀ + r artanh(1 − 2c), whose error follows from that of s₀ and r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from sfxproc.data import Floats
from sfxproc.merging.shells import d_of, s2_of

CC_HALF_LIMIT = 0.3
"""The resolution estimate is where CC½ falls below this."""
FORM_ERROR = 0.02
"""How well the curve can describe CC½ at best; shells of many reflections would else count for
more than their distance from it allows."""
MIN_SHELLS = 4


@dataclass(frozen=True)
class CCHalfCurve:
    """The fitted curve: s0, r in Å⁻² (of s²), their covariance (2, 2), and the s² of the data."""

    s0: float
    r: float
    covariance: Floats
    s2_range: tuple[float, float]

    def d_at(self, cc_half: float) -> tuple[float, float] | None:
        """Resolution in Å where the curve falls to cc_half, 0 < cc_half < 1, and its standard
        error; None if that is not within the data."""
        gradient = np.array([1.0, np.arctanh(1.0 - 2.0 * cc_half)])
        s2 = float(gradient @ (self.s0, self.r))
        if not self.s2_range[0] < s2 < self.s2_range[1]:
            return None
        d = d_of(s2)
        # d = 1/(2s): ∂d/∂s² = −2 d³
        return d, 2.0 * d**3 * float(np.sqrt(gradient @ self.covariance @ gradient))


def fit_cc_half(shells: list[dict[str, Any]]) -> CCHalfCurve | None:
    """The curve through the rows of `statistics`, of which d_max_A, d_min_A, cc_half and
    sigma_cc_half are used; a shell far off counts less (soft L1).

    None with fewer than 4 shells that have a CC½ and its error, or where they do not tell both
    s0 and r.
    """
    known = [row for row in shells if row["sigma_cc_half"] is not None]
    if len(known) < MIN_SHELLS:
        return None
    x = np.array([float(s2_of(row["d_max_A"], row["d_min_A"]).mean()) for row in known])
    cc = np.array([row["cc_half"] for row in known])
    error = np.hypot([row["sigma_cc_half"] for row in known], FORM_ERROR)
    last = float(s2_of(shells[-1]["d_min_A"])[0])

    def residuals(p: Floats) -> Floats:
        model = 0.5 * (1.0 - np.tanh((x / last - p[0]) * np.exp(-p[1])))
        return np.asarray((model - cc) / error)

    # in units of the last s²; a fall far beyond the data or steeper than a shell is not told
    # by them
    fit = least_squares(
        residuals, [0.8, np.log(0.3)], bounds=([-2.0, -5.0], [5.0, 2.0]), loss="soft_l1"
    )
    normal = fit.jac.T @ fit.jac
    if np.any(fit.active_mask != 0) or np.linalg.cond(normal) > 1e12:
        return None
    width = float(np.exp(fit.x[1]))
    scale = last * np.array([1.0, width])  # ∂r/∂ln r = r
    scatter = max(1.0, 2.0 * float(fit.cost) / (len(x) - 2))
    covariance = scatter * np.linalg.inv(normal) * np.outer(scale, scale)
    limits = float(s2_of(shells[0]["d_max_A"])[0]), last
    return CCHalfCurve(float(fit.x[0]) * last, width * last, covariance, limits)


def resolution_estimate(shells: list[dict[str, Any]]) -> float | None:
    """Resolution in Å where CC½ falls below 0.3, from the rows of `statistics`.

    Going outward from the first shell with CC½ ≥ 0.3, the last before one without: the limit
    lies on the straight line in s² from its middle to the middle of the next one, or at its edge
    where the next one has no CC½. The edge of the data where no shell fails, None where all do.
    """
    good = [(row["cc_half"] or 0.0) >= CC_HALF_LIMIT for row in shells]
    if not any(good):
        return None
    first = good.index(True)
    end = good.index(False, first) if False in good[first:] else len(shells)
    last, beyond = shells[end - 1], shells[end : end + 1]
    if not beyond or beyond[0]["cc_half"] is None:
        return float(last["d_min_A"])
    (s_in, cc_in), (s_out, cc_out) = (
        (float(s2_of(row["d_max_A"], row["d_min_A"]).mean()), row["cc_half"])
        for row in (last, beyond[0])
    )
    return d_of(s_in + (s_out - s_in) * (cc_in - CC_HALF_LIMIT) / (cc_in - cc_out))
