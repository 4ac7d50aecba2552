"""A whole application around the routes."""

from __future__ import annotations

from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Blueprint
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from ..abc import WatchBus
from ._answer import STATUS
from ._options import WebOptions
from ._routes import answer_error, watchbus_blueprint


def create_app(bus: WatchBus, options: WebOptions | None = None) -> QuartTrio:
    """Return an application that serves `bus`, and nothing else.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow; the defaults unless given.

    Returns:
        the application, for hypercorn with the worker class ``trio``.

    Nothing is raised: options are checked when they are made.
    """
    return app_of(watchbus_blueprint(bus, options))


def app_of(blueprint: Blueprint) -> QuartTrio:
    """Return an application of this blueprint alone."""
    # No folder of static files and none of templates: nothing but the routes.
    app = QuartTrio("trio_watchbus.web", static_folder=None, template_folder=None)
    app.register_blueprint(blueprint)
    app.register_error_handler(HTTPException, answer_error)
    cast("Any", app).asgi_app = _FinishingApp(app.asgi_app)
    return app


class _FinishingApp:
    """Lets hypercorn finish a response, and notes its status.

    Hypercorn makes the connection ready for the next request inside the last `send`, and on the
    way there says that the request is over, whereupon quart-trio cancels the task that is sending.
    The connection would be left without its timer, to stay open for ever.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(
        self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        async def finishing_send(event: Any) -> None:
            if event["type"] == "http.response.body" and not event.get("more_body"):
                with trio.CancelScope(shield=True):
                    await send(event)
                return
            if event["type"] == "http.response.start":
                scope[STATUS] = event["status"]
            await send(event)

        await self._app(scope, receive, finishing_send if scope["type"] == "http" else send)
