"""Ranks, chunks, threads, and tasks dealt by rank 0.

`comm` speaks to other ranks, `chunks` adds up with the same bits on any number of them,
`coordinator` deals tasks, `decide` has rank 0 decide for all.
"""
