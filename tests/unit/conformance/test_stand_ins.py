from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.images.reference import parse
from tests.conformance import stand_ins
from tests.conformance.stand_ins import NAME, plan


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout")
    stand_ins.write_layout(folder)
    return folder


def read(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())


def configs(layout: Path) -> dict[str, str]:
    """The config's digest of this machine's image, by name; each index is of two architectures."""
    found = {}
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        other, own = read(layout, entry["digest"])["manifests"]
        assert other["platform"]["architecture"] != own["platform"]["architecture"]
        config = read(layout, own["digest"])["config"]["digest"]
        assert read(layout, config)["architecture"] == own["platform"]["architecture"]
        found[entry["annotations"][NAME]] = config
    return found


def test_names_are_whole() -> None:
    names = [name for image in plan() for name in image.names]
    assert len(names) == len(set(names)) and [str(parse(name)) for name in names] == names


def test_each_image_has_a_config_of_its_own_under_all_of_its_names(layout: Path) -> None:
    found = configs(layout)
    assert len(set(found.values())) == len(plan())
    assert all(len({found[name] for name in image.names}) == 1 for image in plan())


def test_every_layer_of_every_image_is_there(layout: Path) -> None:
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        for manifest in read(layout, entry["digest"])["manifests"]:
            for layer in read(layout, manifest["digest"])["layers"]:
                assert (layout / "blobs" / layer["digest"].replace(":", "/")).stat().st_size == layer["size"]


def test_who_starts_without_a_command_is_told_by_the_image(layout: Path) -> None:
    found = configs(layout)
    settings = {name: read(layout, config)["config"] for name, config in found.items()}
    assert all(each["Cmd"] or each["Entrypoint"] for each in settings.values())
    assert settings["registry.k8s.io/e2e-test-images/nginx:1.14-2"]["Entrypoint"][1] == "80"
    users = {name.rpartition("/")[2]: each["User"] for name, each in settings.items() if each["User"]}
    assert users["test-image-user-username-group:latest"] == "www-data:1004" and len(users) == 5
