"""The Durable Streams protocol as pure functions and values: no I/O, clock, randomness or framework."""
