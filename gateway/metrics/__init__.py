"""Counts of this Machine, for Prometheus: `catalogue` names them, `collector` translates them, `page` serves them."""
