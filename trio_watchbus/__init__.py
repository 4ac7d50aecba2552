"""Watch keys, and publish to them: in memory, over Redis, or across the network, all alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ._public import *  # noqa: F403
    from ._public import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Import the public names, all at once, when the first one is used.

        The command line needs few of them, and must be able to take an interrupt before Trio is
        imported.
        """
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        from . import _public  # noqa: PLC0415, that is the point

        if name != "__all__" and name not in _public.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        globals().update({public: getattr(_public, public) for public in _public.__all__})
        globals()["__all__"] = _public.__all__
        return globals()[name]

    def __dir__() -> list[str]:
        from ._public import __all__  # noqa: PLC0415

        return sorted({*globals(), *__all__})
