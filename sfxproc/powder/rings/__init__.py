"""The lines of a powder pattern from the spots of many stills."""
