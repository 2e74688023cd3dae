"""People and agents: users who read, write, leave and come back, and check every event (locust)."""
