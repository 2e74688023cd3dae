"""Running a Machine: sockets, the database before it starts, workers, signals, exit codes."""
