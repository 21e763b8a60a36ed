"""Images as volumes, planned and told."""

from __future__ import annotations

import pytest

from cri.plan.image_volumes import ImageVolume, plan_sub_path, tell_images
from proto import api_pb2 as api


@pytest.mark.parametrize(
    ("path", "planned"), [("", ""), (".", ""), ("./", ""), ("a", "a"), ("a//b/./", "a/b"), ("..a", "..a")]
)
def test_a_sub_path_counts_from_the_root_of_the_image(path: str, planned: str) -> None:
    assert plan_sub_path(path) == planned


def test_each_mount_is_told_the_image_that_it_is_of() -> None:
    config = api.ContainerConfig(
        mounts=[
            api.Mount(container_path="/a/", image=api.ImageSpec(image="one", user_specified_image="said")),
            api.Mount(container_path="/b", host_path="/h"),
            api.Mount(container_path="/c", image=api.ImageSpec(image="two")),
        ]
    )
    tell_images(config, [ImageVolume("/a", "sha256:1", ()), ImageVolume("/c", "sha256:2", ())])
    assert [mount.image.image_ref for mount in config.mounts] == ["sha256:1", "", "sha256:2"]
    assert config.mounts[0].image.image == "one" and config.mounts[0].image.user_specified_image == "said"
    assert not config.mounts[1].HasField("image")
