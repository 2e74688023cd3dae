"""The protocol over ASGI: requests in, responses out."""
