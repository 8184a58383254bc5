"""From scaled observations to merged intensities, and how good they are."""
