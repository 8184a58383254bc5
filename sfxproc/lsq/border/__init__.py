"""Problems whose arrow has a dense border: common parameters beside the local and shared ones.

    | C   E   F |   C local blocks, E couplings to shared parameters (D diagonal), F to the border
    | Eᵀ  D   G |
    | Fᵀ  Gᵀ  H |   H (k, k) dense

Without shared parameters the local blocks are eliminated one by one (`direct`), with them after
these, as one dense matrix on the first process (`joint`). What is left is a dense system
(`reduced`) that also tells which combinations of parameters are a gauge (`gauge`).
"""
