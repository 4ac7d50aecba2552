"""Serve a bus over HTTP: Server-Sent Events, WebSocket, and publishing with POST."""

from __future__ import annotations

try:
    from ._options import ServerOptions, WebOptions
    from ._quart import create_app, drain, watchbus_blueprint
    from ._server import serve
except ModuleNotFoundError as _error:
    raise ImportError(
        "serving needs quart-trio and hypercorn: pip install 'trio-watchbus[server]'"
    ) from _error

__all__ = [
    "ServerOptions",
    "WebOptions",
    "create_app",
    "drain",
    "serve",
    "watchbus_blueprint",
]

# Tracebacks and reprs show the name that users import.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
