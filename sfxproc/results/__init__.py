"""What a job has to tell, and the files that tell it."""
