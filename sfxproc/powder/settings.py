"""How lines are found among the spots of stills: a bare table, as a job file gives it."""

from __future__ import annotations

import msgspec

from sfxproc.config import Count, NotNegative, Positive


class SpotPeakSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How lines are found.

    q_min, q_max : Å⁻¹, where to look; without q_max, where spots are. significance, in standard
    deviations, and min_spots : of a ring. max_lines : the first so many are kept. min_separation :
    of two lines in units of σ(q) of a ring; nearer ones become one. least_sigma : f. ring_sigma :
    σ(q) in Å⁻¹ of rings, if it is not to be estimated. centre_reach_mm : how far to look for the
    centre; 0 keeps the recorded one.
    """

    q_min: NotNegative = 0.02
    q_max: Positive | None = None
    significance: Positive = 5.0
    min_spots: NotNegative = 6.0
    max_lines: Count = 60
    min_separation: NotNegative = 2.0
    least_sigma: NotNegative = 0.08
    ring_sigma: Positive | None = None
    centre_reach_mm: NotNegative = 0.5
