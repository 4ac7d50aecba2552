"""The Lua script, which does all that must happen at once in Redis."""

from __future__ import annotations

from hashlib import sha1
from importlib import resources

_FILES = (
    *("prelude", "state", "settings", "remembered", "retention"),
    *("calls", "publish", "index", "probe"),
)
"""In the order in which they use each other: one file an operation, over a shared prelude."""


def _joined() -> str:
    folder = resources.files("trio_watchbus").joinpath("_redis", "lua")
    parts = [folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in _FILES]
    return "\n".join([*parts, "return other_layout() or operations[ARGV[1]]()\n"])


TEXT = _joined()
"""What EVAL is given."""

DIGEST = sha1(TEXT.encode(), usedforsecurity=False).hexdigest()
"""What EVALSHA is given."""
