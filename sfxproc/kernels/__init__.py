"""Compiled loops: numbers in, numbers out. `compiled` says how their machine code is kept."""
