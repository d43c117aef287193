"""What kind of callable something is, told without importing `inspect` (10 ms of a cold start)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any

__all__ = ["NO_CONTEXT", "Kind", "kind_of", "name_of", "named", "parameter_position"]

# The flags of a code object, as `inspect` names them.
_CO_GENERATOR, _CO_COROUTINE, _CO_ITERABLE_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
_CO_VARARGS = 0x04


#: What a platform's context never is, told apart without asking it.
NO_CONTEXT = frozenset({type(None), dict, list, tuple, str, bytes, int, float, bool})


class Kind(Enum):
    """How a callable gives its answer."""

    FUNCTION = "function"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


def _code(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not hasattr(fn, "__code__") and not isinstance(fn, type):
        fn = getattr(fn, "__func__", None) or getattr(type(fn), "__call__", None)  # noqa: B004 - its code is wanted
        fn = getattr(fn, "__func__", fn)
    return getattr(fn, "__code__", None)


def kind_of(fn: Callable[..., Any]) -> Kind:
    """The kind of a function, method, partial or callable object."""
    code = _code(fn)
    flags = 0 if code is None else code.co_flags
    if flags & _CO_ASYNC_GENERATOR:
        return Kind.ASYNC_GENERATOR
    # Among its own attributes: a Mock has every other.
    marked = "_is_coroutine_marker" in getattr(fn, "__dict__", ())
    if marked or flags & (_CO_COROUTINE | _CO_ITERABLE_COROUTINE):
        return Kind.COROUTINE
    if flags & _CO_GENERATOR:
        return Kind.GENERATOR
    return Kind.FUNCTION


def named(fn: Any) -> Any:
    """What has the name: the function itself, that of a partial, or the class of a callable object."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn if hasattr(fn, "__qualname__") else type(fn)


def name_of(fn: Any) -> str:
    """The qualified name that breakers and logs call it by."""
    fn = named(fn)
    return f"{getattr(fn, '__module__', None) or '?'}.{fn.__qualname__}"


def parameter_position(fn: Any, name: str) -> int | None:
    """Where among the positional arguments `fn` takes `name`; -1 if by keyword only; None if it does not name it."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return None
    positional = code.co_varnames[: code.co_argcount]
    if name in positional:
        return int(positional.index(name))
    keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return -1 if name in keyword_only else None
