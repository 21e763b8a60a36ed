"""What is mounted into a container: bind mounts, their propagation, volumes of the image, the image itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri.demo_image import Entry
from proto import api_pb2 as api
from runtime.linux import mount
from tests.cri.harness import Crisp, as_file, demo_layer
from tests.security.images import build_archive, pack_members, symlink


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host on a mount of its own, shared with whoever mounts it."""
    made = tmp_path / "host"
    made.mkdir()
    mount.mount("crisp-test", os.fspath(made), "tmpfs", 0, "size=1m")
    mount.mount("", os.fspath(made), "", mount.MS_SHARED)
    yield made
    mount.umount2(os.fspath(made), mount.MNT_DETACH)


def bind(host: Path, container: str, **changes: object) -> api.Mount:
    return api.Mount(host_path=os.fspath(host), container_path=container, **changes)  # type: ignore[arg-type]


async def test_a_bind_mount_is_written_through_or_read_only(crisp: Crisp, folder: Path) -> None:
    (folder / "in").write_text("from the host")
    mounts = [bind(folder, "/rw"), bind(folder, "/ro/deep", readonly=True), bind(folder / "in", "/file")]
    script = "cat /rw/in /file; echo; echo hi >/rw/out; touch /ro/deep/no 2>/dev/null || echo refused"
    _, said = await crisp.run_to_end(await crisp.run_pod(), "sh", "-c", script, mounts=mounts)
    assert said.splitlines() == ["from the hostfrom the host", "refused"]
    assert (folder / "out").read_text() == "hi\n" and not (folder / "no").exists()


async def test_a_host_path_that_is_missing_is_made(crisp: Crisp, folder: Path) -> None:
    mask = os.umask(0o077)
    try:
        path = folder / "a" / "b"
        status, _ = await crisp.run_to_end(await crisp.run_pod(), "touch", "/data/x", mounts=[bind(path, "/data")])
    finally:
        os.umask(mask)
    assert status.exit_code == 0 and (path / "x").exists()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("propagation", "inward", "outward"),
    [
        (api.PROPAGATION_PRIVATE, False, False),
        (api.PROPAGATION_HOST_TO_CONTAINER, True, False),
        (api.PROPAGATION_BIDIRECTIONAL, True, True),
    ],
)
async def test_mounts_propagate_as_asked(
    crisp: Crisp, folder: Path, propagation: api.MountPropagation.ValueType, inward: bool, outward: bool
) -> None:
    for name in ("in", "out"):
        (folder / name).mkdir()
    pod, config = crisp.pod(), crisp.container(mounts=[bind(folder, "/m", propagation=propagation)])
    pod.linux.security_context.privileged = config.linux.security_context.privileged = True
    id = await crisp.run(await crisp.run_pod(pod), config)
    mount.mount("crisp-in", os.fspath(folder / "in"), "tmpfs", 0, "size=1m")
    try:
        (folder / "in" / "seen").touch()
        assert (await crisp.exec(id, "test", "-e", "/m/in/seen")).exit_code == (0 if inward else 1)
        assert (await crisp.exec(id, "mount", "-t", "tmpfs", "none", "/m/out")).exit_code == 0
        assert os.path.ismount(folder / "out") == outward
    finally:
        mount.umount2(os.fspath(folder / "in"), mount.MNT_DETACH)
        if outward:
            mount.umount2(os.fspath(folder / "out"), mount.MNT_DETACH)


async def test_a_volume_of_the_image_begins_with_the_images_content(crisp: Crisp) -> None:
    entries = [
        Entry("data", 0o750, directory=True),
        Entry("data/file", 0o640, b"content"),
        Entry("data/deep", 0o711, directory=True),
    ]
    settings = {"Env": ["PATH=/bin"], "Volumes": {"/data": {}, "/made/up": {}, "/../../odd": {}}}
    await crisp.import_image("crisp.local/volumes:1", settings, entries)
    sandbox = await crisp.run_pod()
    script = "stat -c '%a' /data /data/file /data/deep; cat /data/file; echo; echo new >/data/file; ls -d /made/up /odd"
    config = crisp.container("sh", "-c", f"{script}; sleep 1000", image=api.ImageSpec(image="crisp.local/volumes:1"))
    id = await crisp.run(sandbox, config)
    await crisp.until(lambda: "/odd" in crisp.log(id))
    assert crisp.log(id).splitlines() == ["750", "640", "711", "content", "/made/up", "/odd"]
    assert list((await crisp.status(id)).mounts) == []
    upper = Path(crisp.host.container_directory(id), "upper")
    assert not (upper / "data" / "file").exists(), "written to the volume, not to the layer"
    again = crisp.container("cat", "/data/file", name="again", image=config.image)
    other = await crisp.run(sandbox, again)
    await crisp.wait_exit(other)
    assert crisp.log(other) == "content", "every container has volumes of its own"


async def test_a_volume_does_not_cover_a_mount_that_a_link_of_the_image_leads_below_it(
    crisp: Crisp, folder: Path
) -> None:
    (folder / "token").write_text("secret")
    """As VOLUME /run does in an image whose /var/run is a link to it: the service account's token is there."""
    name = "crisp.local/linked:1"
    layers = [demo_layer(), pack_members([symlink("var/volatile", "/volatile")])]
    with as_file(build_archive(name, layers, {"Volumes": {"/volatile": {}}})) as archive:
        await crisp.host.images.import_archive(archive, "")
    config = crisp.container("cat", "/volatile/secrets/token", image=api.ImageSpec(image=name))
    config.mounts.append(bind(folder, "/var/volatile/secrets"))
    id = await crisp.run(await crisp.run_pod(), config)
    await crisp.wait_exit(id)
    assert crisp.log(id) == "secret"


async def test_an_image_goes_while_its_container_runs_on(crisp: Crisp) -> None:
    await crisp.import_image("crisp.local/going:1", {"Env": ["PATH=/bin"]}, [Entry("kept", 0o644, b"kept")])
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox, crisp.container(image=api.ImageSpec(image="crisp.local/going:1")))
    layers = crisp.host.store.containers.get(id).layers
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image="crisp.local/going:1")))
    assert (await crisp.exec(id, "cat", "/kept")).stdout == b"kept"
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await crisp.create(sandbox, crisp.container(name="b", image=api.ImageSpec(image="crisp.local/going:1")))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND
    top = crisp.host.images.lowerdirs(layers)[0]
    assert os.path.isdir(top)
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    assert not os.path.exists(top)
    assert os.path.isdir(crisp.host.images.lowerdirs(layers)[1]), "the layer that the demo image has, too"


async def test_what_a_container_writes_stays_its_own(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    script = "cat /etc/mark 2>/dev/null; echo mine >/etc/mark; rm /etc/group; ls /etc"
    for _ in range(2):
        _, said = await crisp.run_to_end(sandbox, "sh", "-c", script)
        assert "mine" not in said and "group" not in said.split() and "passwd" in said.split()


async def test_the_hosts_mount_table_never_shows_a_root(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.run(sandbox)
    table = Path("/proc/self/mountinfo").read_text()
    assert os.fspath(crisp.host.pod_directory(sandbox)) in table, "the pins are there"
    assert f"{crisp.host.pod_directory(sandbox)}/rootfs" not in table and str(crisp.host.root) not in table
