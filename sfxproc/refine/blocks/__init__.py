"""The same in overlapping blocks, dealt out to ranks."""
