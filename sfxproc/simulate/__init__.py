"""Synthetic data with their truth, for tests, demonstrations and benchmarks."""

from sfxproc.simulate.stills import Simulated, StillsSettings, Truth, simulate_stills

__all__ = ["Simulated", "StillsSettings", "Truth", "simulate_stills"]
