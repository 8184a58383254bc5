"""Typed sections of job files, and what each strategy honours."""
