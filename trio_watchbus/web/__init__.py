"""Serve a bus over HTTP: Server-Sent Events, WebSocket, and publishing with POST."""

from __future__ import annotations

from ._app import create_app
from ._options import ServerOptions, WebOptions
from ._routes import WatchBusBlueprint, watchbus_blueprint
from ._server import serve

__all__ = [
    "ServerOptions",
    "WatchBusBlueprint",
    "WebOptions",
    "create_app",
    "serve",
    "watchbus_blueprint",
]

# Tracebacks and reprs show the name that users import.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
