"""What a job has to tell, and the files that tell it.

`files` first: what an output is. `outputs`, `powder_files` and `spot_powder` list those of each
kind of job, `tables` and `powder` work out what is told.
"""
