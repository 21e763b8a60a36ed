"""The TLS context of the streaming server, whose certificate is read again when its files change.

``cri.streaming.server`` listens with it. The files are looked at with each new connection, so that
a renewed certificate needs no signal and no restart.

Invariant: a half written pair of files is not used; the one that was good before stays.
"""

from __future__ import annotations

import logging
import os
import ssl

from runtime.errors import FailedPrecondition

LOG = logging.getLogger("crisp.streaming")

Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """``context`` is what connections are accepted with."""

    def __init__(self, cert: str, key: str) -> None:
        """Read the files.

        Raises:
            FailedPrecondition: they cannot be read, or do not belong together.
        """
        self._files = cert, key
        try:
            self._stamp = self._read_stamp()
            self.context = self._current = self._load()
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(str(error).lower(), step="read the streaming certificate", object=cert) from error
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        """Called by OpenSSL for each handshake, with and without a name."""
        del name, context
        try:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._current = self._load()
                self._stamp = stamp
                LOG.info("the streaming certificate was read again from %s", self._files[0])
        except (OSError, ssl.SSLError) as error:
            LOG.warning("the streaming certificate in %s cannot be read, the old one stays: %s", self._files[0], error)
        connection.context = self._current

    def _read_stamp(self) -> Stamp:
        found = (os.stat(file) for file in self._files)
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*self._files)
        return context
