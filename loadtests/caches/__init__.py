"""Whether a cache in front carries readers without end."""
