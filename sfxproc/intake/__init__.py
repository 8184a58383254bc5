"""From input files to selected observations in one setting.

`recipe` first: what is done, in order. `source` and `parts` say what it goes over, `reading` is
that in memory, `pieces` on disk; `selection`, `census`, `reindexing` and `reference` decide what
takes part.
"""
