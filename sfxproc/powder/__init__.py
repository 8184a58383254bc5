"""Indexing of powder patterns: a unit cell from the positions of about twenty lines."""
