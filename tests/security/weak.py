"""How runtimes went about it before their advisories: deliberately weak, each in a mount namespace of its own.

``in_private_mounts`` runs a shell script whose mounts nobody else sees and which end with it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path


def in_private_mounts(script: str, *arguments: str | Path) -> str:
    """What ``script`` says, with ``arguments`` as $1 and so on; it fails with the first command that fails."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
