"""How a problem of crystals and intensities is refined."""
