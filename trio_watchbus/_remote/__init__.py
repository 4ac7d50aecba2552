"""A bus that is served elsewhere, over one WebSocket."""
