"""Fan-out: from "the log grew" to bytes in sockets. Knows no database and no HTTP server: what it calls is handed to
it.
"""
