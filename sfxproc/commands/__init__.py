"""What the command line does beside jobs: a module a command."""
