"""The server under ASGI: connections, whole answers, descriptors. The only room that knows uvicorn."""
