"""What this Machine counts, told to Prometheus: `catalogue` names it, `page` serves it."""
