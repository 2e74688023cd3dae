"""From "the log grew" to bytes in sockets. Knows no database: it is handed what it calls."""
