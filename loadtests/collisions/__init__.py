"""Whether the log keeps its rules when many sessions call its SQL functions at once, while sessions are killed."""
