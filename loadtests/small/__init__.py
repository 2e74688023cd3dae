"""Whether one small Machine holds all that its limits allow: 512 MB and one core, as fly.toml asks for."""
