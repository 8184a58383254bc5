"""What a partiality model is: one shape of three numbers, and how it is evaluated.

    P = f(r, R, w)    r: excitation error |q + s0| − 1/λ
                      R > 0: size of the reciprocal-lattice point at this |q|
                      w ≥ 0: standard deviation of r that the bandwidth causes

All three in Å⁻¹; P is 1 at r = 0 and even in r. Where R and w come from:

    R = r0 + m |q|
    w = σ_k |∂r/∂k| = (σ_λ/λ) k |(k + z)/|q + s0| − 1|,    z = q·ŝ0,  k = 1/λ,
    |q + s0|² = q² + k² + 2 z k

for a spectrum that is narrow, so that r moves in proportion to k.

A profile is a compiled function of three numbers, for loops over reflections to take as an
argument. Such a loop wants PROFILE_TYPE in its signature: the same machine code then serves all
models and is kept on disk, while a loop compiled for each profile never finds its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np
from numba import njit, types
from numpy.typing import ArrayLike, NDArray

from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.postrefine import PROFILE_TYPE as PROFILE_TYPE

Floats = NDArray[np.floating[Any]]
Profile = Callable[[float, float, float], tuple[float, float, float, float]]

NEGLIGIBLE = 1e-3  # of P, beyond `reach`
STEP = 6e-6  # of differences, over the scale of the profile: about the cube root of the rounding


@dataclass(frozen=True)
class Partiality:
    """A model.

    profile : compiled, (r, R, w) -> (P, ∂P/∂r, ∂P/∂R, ∂P/∂w); numbers in Å⁻¹ and Å.
    reach : (R, w) -> |r| in Å⁻¹ beyond which P < NEGLIGIBLE; numbers or arrays that broadcast.
    uses_bandwidth : whether P depends on w.
    amplitude : what P is to be multiplied with, r0 being the size at q = 0.
    """

    name: str
    profile: Profile
    reach: Callable[[Any, Any], Any]
    uses_bandwidth: bool = False
    amplitude: Literal["none", "r0/R"] = "none"


def size_at(r0: Any, m: Any, q: Any) -> Any:
    """R in Å⁻¹ of r0 (Å⁻¹), m (no unit) and q = |q| (Å⁻¹); numbers or arrays that broadcast."""
    return r0 + m * q


def width_at(bandwidth: Any, k: Any, q2: Any, z: Any) -> Any:
    """w in Å⁻¹ of σ(λ)/λ, k and z (Å⁻¹) and q2 = |q|² (Å⁻²); numbers or arrays that broadcast."""
    return bandwidth * k * abs((k + z) / np.sqrt(q2 + k * k + 2.0 * z * k) - 1.0)


def values(model: Partiality, r: ArrayLike, R: ArrayLike, w: ArrayLike = 0.0) -> Floats:
    """P of r, R, w (Å⁻¹, broadcast), without the model's amplitude."""
    return np.asarray(_evaluated(model, r, R, w)[0])


def derivatives(
    model: Partiality, r: ArrayLike, R: ArrayLike, w: ArrayLike = 0.0
) -> tuple[Floats, Floats, Floats]:
    """(∂P/∂r, ∂P/∂R, ∂P/∂w) in Å at r, R, w (Å⁻¹, broadcast)."""
    _, by_r, by_R, by_w = _evaluated(model, r, R, w)
    return by_r, by_R, by_w


def by_differences(value: Callable[[float, float, float], float]) -> Profile:
    """The profile of a compiled value(r, R, w) -> P, its derivatives by central differences.

    They are good to about 1e-8 of the greatest. Seven values each time, and compiled anew in
    every process, as a function made of another one does not find its code again: for trying out.
    """

    @njit(nogil=True, error_model="numpy")
    def profile(r, R, w):
        step = STEP * max(abs(r), R + w)
        before, after = r - step, r + step
        by_r = (value(after, R, w) - value(before, R, w)) / (after - before)
        before, after = R * (1.0 - STEP), R * (1.0 + STEP)
        by_R = (value(r, after, w) - value(r, before, w)) / (after - before)
        step = STEP * (R + w)
        before, after = w - step, w + step  # P is a function of w²
        by_w = (value(r, R, after) - value(r, R, abs(before))) / (after - before)
        return value(r, R, w), by_r, by_R, by_w

    return cast(Profile, profile)


def _evaluated(model: Partiality, r: ArrayLike, R: ArrayLike, w: ArrayLike) -> Floats:
    """P and its three derivatives (4, ...)."""
    given = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (r, R, w)))
    out = np.empty((4, given[0].size))
    _compiled_loop()(model.profile, *(np.ascontiguousarray(x).ravel() for x in given), out)
    return out.reshape(4, *given[0].shape)


@cache
def _compiled_loop() -> Callable[..., None]:
    """Compiled when first called, not when imported: many ranks may import at once."""
    row = types.float64[::1]
    signature = types.void(PROFILE_TYPE, row, row, row, types.float64[:, ::1])
    return compiled(signature=signature)(_loop)


def _loop(profile, r, R, w, out):
    for i in range(len(r)):
        out[0, i], out[1, i], out[2, i], out[3, i] = profile(r[i], R[i], w[i])
