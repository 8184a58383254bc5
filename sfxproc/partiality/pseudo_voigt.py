"""A mixture of the Gaussian and the Lorentzian of the same width.

    P = g exp(−2 ln2 x²) + (1 − g)/(1 + 2x²)    x = r/R
    g = ν √(π ln2) / (ν √(π ln2) + 1 − ν)

ν is the share of the Gaussian in the area, and g in the height (prime: Uervirojnangkoorn et al.,
eLife 4, e05421, 2015). The half maximum is at |r| = R/√2 whatever ν is, so that R means the same
as in the two models it is made of; prime's r_s is the full width at half maximum, √2 R.
"""

from __future__ import annotations

import math
from typing import Any

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality import gaussian, lorentzian
from sfxproc.partiality.base import NEGLIGIBLE, Partiality

MIXING = 0.5  # ν

soft, sharp = lorentzian.profile, gaussian.profile


def pseudo_voigt(nu: float) -> Partiality:
    """The model with ν = nu in [0, 1]: 0 is the Lorentzian, 1 the Gaussian."""
    area = nu * math.sqrt(math.pi * math.log(2.0))
    g = area / (area + 1.0 - nu)
    h = 1.0 - g

    @compiled
    def profile(r, R, w):
        p1, by_r1, by_R1, _ = sharp(r, R, w)
        p2, by_r2, by_R2, _ = soft(r, R, w)
        return g * p1 + h * p2, g * by_r1 + h * by_r2, g * by_R1 + h * by_R2, 0.0

    near, far = 0.0, lorentzian.REACH  # P falls below NEGLIGIBLE between them
    while far - near > 1e-9:
        x = 0.5 * (near + far)
        p = g * math.exp(-gaussian.SHARPNESS * x * x) + h / (1.0 + 2.0 * x * x)
        near, far = (x, far) if p >= NEGLIGIBLE else (near, x)

    def reach(R: Any, w: Any) -> Any:
        return far * R

    return Partiality("pseudo_voigt", profile, reach)


PARTIALITY = pseudo_voigt(MIXING)
