"""From input files to selected observations in one setting."""
