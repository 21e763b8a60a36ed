"""What a daemon of an older crisp was killed in the middle of can be undone by this one."""

from __future__ import annotations

import os
from pathlib import Path

from cri.steps.codec import decode
from runtime.linux import mount
from tests.cri.harness import Crisp


async def test_a_birth_whose_steps_held_the_plan_and_mounted_more(crisp: Crisp, tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir()
    mount.mount("shm", str(tmp_path / "shm"), "tmpfs", 0, "size=4096")
    files = f'{{"type": "write_files", "sandbox": "s", "path": "{tmp_path}", "hostname": "h", "files": {{}}'
    text = f'[{{"type": "create_namespaces", "sandbox": "s", "plan": {{"id": "s"}}}}, {files}, "shm_size": 4096}}]'
    for step in reversed(decode(text.encode())):
        await step.undo(crisp.host)
    assert not os.path.ismount(tmp_path / "shm")
