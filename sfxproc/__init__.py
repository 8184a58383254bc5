"""Scaling, refinement and merging of serial crystallography stills."""

__version__ = "0.1.0"
