"""Other ways to the same minimum, kept to compare with; daily work needs none of them.

Factors of the whole normal matrix, dense or sparse, show what eliminating the shared parameters
saves, and are twins to test it against. L-BFGS, with and without curvatures, is what programs use
that form no matrix. Alternating is what programs do that know no joint problem. Benchmarks time
them beside each other on one model; jobs offer them by name (`lsq.solvers`).
"""
