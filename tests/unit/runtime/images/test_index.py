"""Finding images by what people call them."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.images.index import ImageIndex
from runtime.images.model import Image

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "12" * 32
DIGEST = "sha256:" + "d" * 64


def image(image_id: str = ONE, *tags: str, digests: tuple[str, ...] = (), created_at: int = 0) -> Image:
    return Image(
        id=image_id, config=b"", layers=(), size=1, repo_tags=tags, repo_digests=digests, created_at=created_at
    )


@pytest.fixture
def index() -> ImageIndex:
    digests = (f"docker.io/library/a@{DIGEST}",)
    return ImageIndex([image(ONE, "docker.io/library/a:latest", digests=digests), image(TWO, "r.example/b:v1")])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ONE, ONE),
        ("1" * 64, ONE),
        ("11", ONE),
        ("sha256:11", ONE),
        ("12", TWO),
        ("a", ONE),
        ("a:latest", ONE),
        ("docker.io/library/a", ONE),
        (f"a@{DIGEST}", ONE),
        (f"a:whatever@{DIGEST}", ONE),
        (DIGEST, ONE),
        ("d" * 64, ONE),
        ("r.example/b:v1", TWO),
    ],
)
def test_an_image_has_many_names(index: ImageIndex, text: str, found: str) -> None:
    image = index.resolve(text)
    assert image is not None
    assert image.id == found


@pytest.mark.parametrize("text", ["b", "r.example/b", "a:v2", "f0", "sha256:" + "e" * 64, f"b@{DIGEST}", "e" * 64])
def test_what_is_not_there_is_not_found(index: ImageIndex, text: str) -> None:
    assert index.resolve(text) is None


@pytest.mark.parametrize("text", ["", "A", "a b", "../x", "1"])
def test_what_means_nothing_or_too_much_is_refused(index: ImageIndex, text: str) -> None:
    with pytest.raises(InvalidArgument):
        index.resolve(text)


def test_a_name_goes_before_the_beginning_of_an_id() -> None:
    index = ImageIndex([image(ONE), image(TWO, "docker.io/library/11:latest")])
    found = index.resolve("11")
    assert found is not None
    assert found.id == TWO


def test_a_tag_moves_to_the_image_that_is_added(index: ImageIndex) -> None:
    added = image("sha256:" + "3" * 64, "docker.io/library/a:latest")
    first, loser = index.plan_add(added)
    assert first == added
    assert (loser.id, loser.repo_tags) == (ONE, ())
    assert loser.repo_digests == (f"docker.io/library/a@{DIGEST}",)
    for each in (loser, first):
        index.put(each)
    found = index.resolve("a")
    assert found is not None and found.id == added.id
    assert index.get(ONE) == loser


def test_an_image_that_is_added_again_keeps_its_names(index: ImageIndex) -> None:
    [joined] = index.plan_add(image(ONE, "r.example/a:v2", created_at=9))
    assert joined.repo_tags == ("docker.io/library/a:latest", "r.example/a:v2")
    assert joined.created_at == 0


def test_a_dropped_image_leaves_no_name(index: ImageIndex) -> None:
    index.drop(ONE)
    index.drop(ONE)
    assert index.resolve("a") is None
    assert [each.id for each in index.all()] == [TWO]
    assert len(index) == 1
