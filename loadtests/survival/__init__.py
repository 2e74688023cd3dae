"""Whether everything is survived: Machines, writers and readers under faults drawn by a seed, and the account of it."""
