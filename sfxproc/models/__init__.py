"""What is refined: rows of residuals and derivatives of scaling and postrefinement.

`scale` first, then `postrefine`; `parameters` is the table of what a crystal has.
"""
