"""What can be said about a problem from its structure alone."""

from sfxproc.analysis.fill_in import (
    FillIn,
    count_fill_in,
    distinct_pairs,
    filled_by_formula,
    images_first,
    linked_images,
    reflections_first,
)

__all__ = [
    "FillIn",
    "count_fill_in",
    "distinct_pairs",
    "filled_by_formula",
    "images_first",
    "linked_images",
    "reflections_first",
]
