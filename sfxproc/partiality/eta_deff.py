"""Mosaic blocks of size D_eff that are misoriented by η: the sphere with an amplitude.

    P = (R² − r²)/(D_eff R³) = (r0/R) (1 − (r/R)²)    |r| < R, else 0
    R = r0 + m |q|,    r0 = 1/D_eff,    m = η/2       (|q| = 1/d)

(Sauter, Hattne, Brewster, Echols, Zwart & Adams, Acta Cryst. D70, 3299, 2014.) The profile is that
of the sphere; whoever knows r0 applies the amplitude r0/R, by which a point that is larger at high
|q| spreads its intensity over more angles.
"""

from __future__ import annotations

from sfxproc.partiality.base import Partiality
from sfxproc.partiality.sphere import profile, reach

PARTIALITY = Partiality("eta_deff", profile, reach, amplitude="r0/R")
