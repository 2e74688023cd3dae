"""OpenTelemetry's traces, where GATEWAY_TRACES asks for them; elsewhere nothing imports this room."""
