"""Machines in several regions over one Postgres, an ocean away: what an append, a read and a delivery take there."""
