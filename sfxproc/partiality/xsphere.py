"""A solid sphere cut by the Ewald spheres of a Gaussian spectrum.

    P = F(r)/F(0),   F = ∫ φ(z) (1 − v²)₊ dz,   v = (r + w z)/R,   |z| ≤ 5

(xsphere of CrystFEL: White, Phil. Trans. R. Soc. B 369, 20130330, 2014.) φ is the standard normal
density: z is how many standard deviations a part of the spectrum lies from its centre, and v where
its Ewald sphere cuts the point. That is the definition by an integral over k,

    ∫ E(k) (1 − (t(k)/R)²) dk,   t(k) = √(q² + k² + 2 z k) − k,

with t taken as linear in k about 1/λ, by which P is off by up to 1.4·10⁻⁶, 10⁻⁴ and 1.1·10⁻³ for
bandwidths of 10⁻⁴, 10⁻³ and 5·10⁻³ (λ = 1.3 Å, |q| ≤ 0.5 Å⁻¹, R ≥ 0.002 Å⁻¹). From the
integrals over the part inside, |v| < 1,

    (K0, K1, K2, Kz) = ∫ φ (1, v, v², z v) dz

all else follows, the integrand being 0 where the borders move:

    F = K0 − K2,   ∂F/∂r = −2 K1/R,   ∂F/∂R = 2 K2/R,   ∂F/∂w = −2 Kz/R

and P's derivatives from those of F and F(0). With the moments M0, M1, M2 of φ between the borders,
which are erf and exp of these,

    R K1 = r M0 + w M1,   R Kz = r M1 + w M2,   R K2 = r K1 + w Kz,

which loses no digits for w up to the size of R. A point smaller than R = w/2 is so narrow that φ
hardly curves within it: there Gauss–Legendre quadrature over v gives K/(R/w), a factor that
cancels in P. For w < 10⁻¹¹ R, P is that of the sphere, from which it differs by less than 10⁻¹¹.
"""

from __future__ import annotations

import math
from typing import Any

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality import sphere
from sfxproc.partiality.base import Partiality

CUT = 5.0  # |z| of the ends of the spectrum
SHARP = 1e-11  # w/R below which P is that of the sphere
NARROW = 0.5  # R/w below which the sums are by quadrature
DENSITY = 1.0 / math.sqrt(2.0 * math.pi)
HALF_AT_CUT = 0.5 * math.erf(CUT / math.sqrt(2.0))
DENSITY_AT_CUT = DENSITY * math.exp(-0.5 * CUT * CUT)
ROOT_HALF = math.sqrt(0.5)
# nodes and weights of 8-point Gauss–Legendre quadrature, of which these are the positive half
NODES = (0.18343464249564980, 0.52553240991632899, 0.79666647741362674, 0.96028985649753623)
WEIGHTS = (0.36268378337836198, 0.31370664587788729, 0.22238103445337447, 0.10122853629037626)

solid = sphere.profile


@compiled
def _normal(z):
    """∫₀ᶻ φ and φ(z), z being no further than CUT."""
    if abs(z) >= CUT:  # most of the time: no erf then
        return math.copysign(HALF_AT_CUT, z), DENSITY_AT_CUT
    return 0.5 * math.erf(z * ROOT_HALF), DENSITY * math.exp(-0.5 * z * z)


@compiled(error_model="numpy")
def _closed(r, R, w):
    """(K0, K1, K2, Kz) for 0 ≤ r < R + CUT w."""
    low, high = max(-(R + r) / w, -CUT), min((R - r) / w, CUT)
    below, density_low = _normal(low)
    above, density_high = _normal(high)
    m0, m1 = above - below, density_low - density_high
    m2 = m0 + low * density_low - high * density_high
    k1, kz = (r * m0 + w * m1) / R, (r * m1 + w * m2) / R
    return m0, k1, (r * k1 + w * kz) / R, kz


@compiled(error_model="numpy")
def _quadrature(r, R, w):
    """(K0, K1, K2, Kz) w/R for 0 ≤ r < R + CUT w."""
    low, high = max((r - CUT * w) / R, -1.0), min((r + CUT * w) / R, 1.0)
    middle, half = 0.5 * (high + low), 0.5 * (high - low)
    k0, k1, k2, kz = 0.0, 0.0, 0.0, 0.0
    for i in range(2 * len(NODES)):
        node = NODES[i // 2] if i % 2 else -NODES[i // 2]
        v = middle + half * node
        z = (R * v - r) / w
        weight = WEIGHTS[i // 2] * half * DENSITY * math.exp(-0.5 * z * z)
        k0 += weight
        k1 += weight * v
        k2 += weight * v * v
        kz += weight * z * v
    return k0, k1, k2, kz


@compiled(error_model="numpy")
def profile(r, R, w):
    """(P, ∂P/∂r, ∂P/∂R, ∂P/∂w) of numbers in Å⁻¹; all zero where no part is inside."""
    if w < SHARP * R:
        return solid(r, R, w)
    x = abs(r)
    if x >= R + CUT * w:
        return 0.0, 0.0, 0.0, 0.0
    if R / w < NARROW:
        k0, k1, k2, kz = _quadrature(x, R, w)
        c0, _, c2, cz = _quadrature(0.0, R, w)
    else:
        k0, k1, k2, kz = _closed(x, R, w)
        c0, _, c2, cz = _closed(0.0, R, w)
    centre = c0 - c2
    p = min(max((k0 - k2) / centre, 0.0), 1.0)  # but for rounding it is within
    scale = 2.0 / (R * centre)
    return p, -math.copysign(scale * k1, r), scale * (k2 - p * c2), scale * (p * cz - kz)


def reach(R: Any, w: Any) -> Any:
    """|r| in Å⁻¹ beyond which P < NEGLIGIBLE: that of the sphere and that of the spectrum."""
    return R + 3.72 * w


PARTIALITY = Partiality("xsphere", profile, reach, uses_bandwidth=True)
