"""An output folder under way: claimed, gone on with, finished."""
