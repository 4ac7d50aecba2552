"""What a served bus allows, and how often it speaks: one place for every default."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """What the routes of a served bus allow.

    Attributes:
        heartbeat: seconds after which an idle stream says something, so that both sides notice
            when the other has gone; more than 0. Proxies commonly cut what is idle for 30 to 60.
        allowed_hosts: names that requests may have in ``Host``, beside those of the loopback
            interface and the address that the connection came in on. A page elsewhere whose
            name an attacker points at this server is refused by this.
        allowed_origins: origins (``https://shop.example``), beside the server's own, of pages
            that may use the routes.
        max_keys: keys and prefixes that one request or watch may name, at least 1.
        max_watches: watches that one ``watchbus.v1`` connection may have, at least 1.
        max_inbound_size: bytes of one message that a WebSocket client sends, other than to
            publish, at least 1.
        max_batch_size: bytes of one NDJSON batch, at least 1.
        max_batch_messages: messages in one batch, at least 1: they are published in one step,
            in which nobody else has a turn.
    """

    heartbeat: float = 15.0
    allowed_hosts: Collection[str] = ()
    allowed_origins: Collection[str] = ()
    max_keys: int = 100
    max_watches: int = 1000
    max_inbound_size: int = 64 * 1024
    max_batch_size: int = 16 * 1024 * 1024
    max_batch_messages: int = 10_000

    def __post_init__(self) -> None:
        if not self.heartbeat > 0:
            raise ValueError(f"heartbeat must be more than 0 seconds, not {self.heartbeat}")
        for name in (
            "max_keys",
            "max_watches",
            "max_inbound_size",
            "max_batch_size",
            "max_batch_messages",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("allowed_hosts", "allowed_origins"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a collection of str; put the one into a list")
