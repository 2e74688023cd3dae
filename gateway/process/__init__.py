"""How a Machine is run: sockets, the database before it starts, workers, signals, exit codes."""
