"""What people look at: the log, tables on a terminal, pages with plots."""
