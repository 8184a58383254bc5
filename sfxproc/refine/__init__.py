"""How a problem of crystals and intensities is refined.

`strategies` first: the two ways. `refined` is what both make, `whole` the one, `blocks` the other;
`judge` leaves crystals out, `outcome` tells what came of it. `merging_job` is what all are given.
"""
