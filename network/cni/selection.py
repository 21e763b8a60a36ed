"""Which CNI network is in force: the folder as it was read last, the watch over it, the template.

``provider`` attaches pods to what this says, ``cri`` chooses by ``configured`` between the
built-in bridge and CNI.

Invariant: ``reading`` is what the folder said at the last change that was seen; ``on_change``
is called after each that makes a difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from network.cni import conf, directory, template
from network.cni.directory import Reading
from network.cni.watch import Watch
from runtime.errors import HostFault, InvalidArgument

WRITTEN = "10-crisp-net.conflist"
"""The configuration that is made from the template."""

_PARTIAL = ".partial"


class Selection:
    """Of one event loop; ``close`` ends the watch."""

    def __init__(self, folder: str, template: str = "") -> None:
        self._folder = folder
        self._template = template
        self._watch = Watch(folder, lambda: void(self.refresh()))
        self.reading: Reading = directory.read_directory(folder)
        self.on_change: Callable[[], None] = lambda: None

    @property
    def configured(self) -> bool:
        """Whether pods are meant to be connected by CNI: also while the configuration is malformed or awaited."""
        return bool(self.reading.file or self._template)

    def refresh(self) -> Reading:
        """Read the folder again."""
        before, self.reading = self.reading, directory.read_directory(self._folder)
        self._watch.renew()
        if before != self.reading:
            self.on_change()
        return self.reading

    def write_template(self, cidrs: Sequence[str]) -> bool:
        """Make the configuration from the template, if there is one; whether it was written. Another's
        configuration is left to decide. Blocking.

        Raises:
            InvalidArgument: the template is wrong.
            HostFault: it cannot be read, or its configuration not be written.
        """
        names = directory.list_files(self._folder)
        if not self._template or not cidrs or any(name != WRITTEN for name in names):
            return False
        text = template.render(self._read_template(), cidrs)
        try:
            conf.parse_file(text.encode(), WRITTEN)
        except conf.ConfError as error:
            raise InvalidArgument(
                f"makes a configuration that {error}", step="make the CNI configuration", object=self._template
            ) from error
        target = Path(self._folder, WRITTEN)
        try:
            os.makedirs(self._folder, 0o755, exist_ok=True)
            if target.exists() and target.read_text() == text:
                return False
            partial = target.with_suffix(_PARTIAL)
            partial.write_text(text)
            partial.rename(target)
        except OSError as error:
            raise HostFault(step="write the CNI configuration", object=str(target), errno=error.errno or 0) from error
        return True

    def _read_template(self) -> str:
        try:
            return Path(self._template).read_text()
        except (OSError, UnicodeError) as error:
            number = error.errno or 0 if isinstance(error, OSError) else 0
            words = "" if number else "is no text"
            raise HostFault(
                words, step="read the template of the CNI configuration", object=self._template, errno=number
            ) from error

    def close(self) -> None:
        self._watch.close()


def void(_: object) -> None:
    """For a callback whose result nobody wants."""
