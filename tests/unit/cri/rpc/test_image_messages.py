"""Images as the API shows them."""

from __future__ import annotations

import pytest

from cri.rpc.image_messages import image
from runtime.images.model import Image

RECORD = Image(
    id="sha256:1", config=b"{}", layers=(), size=5, repo_tags=("a:1",), repo_digests=("a@sha256:2",), pinned=True
)


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1000:100", 1000, ""),
        ("web:staff", None, "web"),
        ("\uff11", None, "\uff11"),
        ("4294967296", None, "4294967296"),
    ],
)
def test_the_images_user_is_a_number_or_a_name(user: str, uid: int | None, username: str) -> None:
    message = image(RECORD, user)
    assert message.HasField("uid") == (uid is not None) and message.username == username
    assert message.uid.value == (uid or 0)


def test_an_image_has_all_its_names_and_the_id_that_a_pull_answered() -> None:
    message = image(RECORD, "")
    assert (message.id, message.spec.image, message.size, message.pinned) == ("sha256:1", "sha256:1", 5, True)
    assert list(message.repo_tags) == ["a:1"] and list(message.repo_digests) == ["a@sha256:2"]
