"""Typed sections of job files, and what each strategy honours.

`sections` are shared by several kinds of job, each kind has a module; `strategies` is the table.
"""
