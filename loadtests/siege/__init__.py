"""Abuse of many kinds at once by one tenant, while honest ones of another tenant work: what it costs them."""
