"""exp of an array, in a form that compilers turn into vector instructions.

exp x = 2ⁿ·exp r with n = ⌊x/ln 2⌉ and r = x − n ln 2 in two parts (Cody & Waite, Software Manual
for the Elementary Functions, 1980), exp r by its series to r¹¹. Relative error below 1e-14;
arguments beyond ±700 are taken as ±700. About a tenth of the time of the scalar library call.
"""

from __future__ import annotations

import numpy as np

from sfxproc.kernels.compiled import compiled

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
ROUND = 6755399441055744.0  # 1.5·2⁵²: adding it leaves the nearest integer in the low bits
LARGEST = 700.0


@compiled(error_model="numpy")
def exponential(x, work, out):
    """out = exp(x); work is scratch of the same length. None of them may overlap."""
    bits = work.view(np.int64)
    for i in range(len(x)):
        work[i] = min(max(x[i], -LARGEST), LARGEST) * LOG2_E + ROUND
    for i in range(len(x)):
        n = work[i] - ROUND
        r = (min(max(x[i], -LARGEST), LARGEST) - n * LN2_HIGH) - n * LN2_LOW
        p = 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        out[i] = p * r + 1.0
    for i in range(len(x)):
        bits[i] = (bits[i] + 1023) << 52
    for i in range(len(x)):
        out[i] *= work[i]
