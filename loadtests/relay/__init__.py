"""What the relay adds to an answer: measured beside the upstream itself and plain GATEWAY_UPSTREAM."""
