"""New locks in a forked child.

A lock that another thread held in the parent at the fork is held for ever in the child, where that thread does not
exist; so each object with a lock asks to be told.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    class Renewable(Protocol):
        """What has a lock."""

        def _renew(self) -> None: ...


__all__ = ["renew_in_child"]


#: What changes: it grows by one with each object made, and shrinks as they die; the interpreter's own lock guards it.
_alive: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(thing: Renewable) -> None:
    """Call `thing._renew()` in each child forked from now on, for as long as `thing` lives."""
    _alive.add(thing)


def _renew_all() -> None:
    for thing in list(_alive):
        thing._renew()


# Windows and Pyodide do not fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
