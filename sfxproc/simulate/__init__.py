"""Synthetic data with their truth, for tests, demonstrations and benchmarks."""
