"""A credential kept in a file, as mounted secrets are.

As all providers that come with the package, it checks its settings when it is made; errors name the secret, never its
value.
"""

from __future__ import annotations

import os
import stat

from resilience.core.errors import CredentialUnavailable
from resilience.core.settings import Settings
from resilience.http.credential import Credential, Provider, problem_with

__all__ = ["file"]

#: Bytes; no header is that long, and a wrong path may lead anywhere.
_MOST = 65536


def file(path: str | os.PathLike[str], *, strip: bool = True) -> Provider:
    """A credential in a file, read again when the file has changed (a mounted Kubernetes or Docker secret).

    path: of a regular file, or a link to one, of at most 64 KiB; UTF-8.
    strip: take white space, such as the last line's end, off both ends.
    Raises `ConfigurationError` at once for wrong settings; `CredentialUnavailable` when asked, if the file is missing,
    cannot be read, or holds nothing that can be sent.
    """
    settings = Settings("file")
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in str(path):
        raise settings.wrong("path", path, "the path of a file")
    settings.flag("strip", strip)
    return _File(os.fspath(path), strip)


class _File(Provider):
    """What changes: `_last`, what was read and of which version of the file. No lock: it is replaced whole."""

    direct = True

    def __init__(self, path: str, strip: bool) -> None:
        self.name = f"file:{path}"
        self._path = path
        self._strip = strip
        self._last: tuple[tuple[int, ...], Credential] | None = None

    def __call__(self) -> Credential:
        last = self._last
        try:
            if last is not None and _version(os.stat(self._path)) == last[0]:
                return last[1]
            self._last = last = self._read()
        except OSError as error:
            raise CredentialUnavailable(f"{self.name}: {error.strerror or type(error).__name__}") from error
        return last[1]

    def _read(self) -> tuple[tuple[int, ...], Credential]:
        # A pipe would hold us until somebody writes to it.
        if not stat.S_ISREG(os.stat(self._path).st_mode):
            raise CredentialUnavailable(f"{self.name}: is not a regular file")
        # "replace" puts in a character that is refused below; a decoding error would show what it could not decode.
        with open(self._path, encoding="utf-8-sig", errors="replace", newline="") as handle:
            info = os.fstat(handle.fileno())
            if info.st_size > _MOST:
                raise CredentialUnavailable(f"{self.name}: holds {info.st_size} bytes; at most {_MOST} are read")
            return _version(info), self._checked(handle.read(_MOST))

    def _checked(self, text: str) -> Credential:
        if self._strip:
            text = text.strip()
        problem = problem_with(text)
        if problem is not None:
            del text
            raise CredentialUnavailable(f"{self.name}: the content {problem}")
        return Credential(text)

    def drop(self) -> None:
        self._last = None


def _version(info: os.stat_result) -> tuple[int, ...]:
    return info.st_mtime_ns, info.st_size, info.st_ino, info.st_dev
