"""The same in overlapping blocks, dealt out to ranks.

`run` first; `tasks` has what is done with a block or segment, `dealing` deals them, `rounds` goes
from one round to the next, `refined` is what judging and merging see.
"""
