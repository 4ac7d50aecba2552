"""Serve a bus over HTTP: Server-Sent Events, WebSocket and publishing."""

__all__: list[str] = []
