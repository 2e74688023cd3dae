"""What this Machine counts, for Prometheus: `catalogue` names it, `collector` translates it, `page` serves it."""
