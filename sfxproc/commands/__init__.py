"""What the command line does beside jobs."""
