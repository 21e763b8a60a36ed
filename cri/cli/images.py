"""``crisp images import|list|remove``: the image store without a registry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from cri.cli.options import add_common, add_output, read_settings
from cri.cli.output import print_json, print_table, short, size
from runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from proto.admin_pb2 import ImportImageRequest, StoredImage

CHUNK = 1024 * 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("images", help="import, list and remove images")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    bring = actions.add_parser("import", help="bring in a docker or OCI archive")
    bring.add_argument("archive", metavar="FILE", help="the archive; - is standard input")
    bring.add_argument("--name", default="", metavar="REFERENCE", help="a name for an archive that brings none along")
    bring.set_defaults(run=import_archive)
    show = actions.add_parser("list", help="list all images")
    show.set_defaults(run=list_images)
    remove = actions.add_parser("remove", help="remove an image with all its tags")
    remove.add_argument("image", metavar="IMAGE", help="a tag, a digest or an id")
    remove.set_defaults(run=remove_image)
    for action in (bring, show, remove):
        add_common(action)
        add_output(action)


def import_archive(args: argparse.Namespace) -> int:
    from cri.cli.client import admin

    settings = read_settings(args)
    with open_archive(args.archive) as archive, admin(settings, args.archive) as stub:
        answer = stub.ImportImage(requests(archive, args.name))
    print_images(answer.images, args.output)
    return 0


def open_archive(path: str) -> BinaryIO:
    """Raises InvalidArgument when there is no such file."""
    if path == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return open(path, "rb")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(reason, step="open the archive", object=path) from error


def requests(archive: BinaryIO, name: str) -> Iterator[ImportImageRequest]:
    """The archive in chunks; the first message carries the name alone."""
    from proto import admin_pb2

    yield admin_pb2.ImportImageRequest(reference=name)
    while chunk := archive.read(CHUNK):
        yield admin_pb2.ImportImageRequest(chunk=chunk)


def list_images(args: argparse.Namespace) -> int:
    from cri.cli.client import admin
    from proto import admin_pb2

    with admin(read_settings(args)) as stub:
        answer = stub.ListImages(admin_pb2.ListImagesRequest(), timeout=30)
    print_images(answer.images, args.output)
    return 0


def remove_image(args: argparse.Namespace) -> int:
    from cri.cli.client import admin
    from proto import admin_pb2

    with admin(read_settings(args)) as stub:
        answer = stub.RemoveImage(admin_pb2.RemoveImageRequest(image=args.image), timeout=60)
    print_images([answer.removed], args.output)
    return 0


def print_images(images: Iterable[StoredImage], output: str) -> None:
    if output == "json":
        print_json([to_json(image) for image in images])
        return
    rows = []
    for image in images:
        for name in image.repo_tags or image.repo_digests or ["<none>"]:
            rows.append((name, short(image.id), size(image.size), "pinned" if image.pinned else ""))
    print_table(("IMAGE", "ID", "SIZE", ""), sorted(rows))


def to_json(image: StoredImage) -> dict[str, object]:
    return {
        "id": image.id,
        "repo_tags": list(image.repo_tags),
        "repo_digests": list(image.repo_digests),
        "size": image.size,
        "created_at": image.created_at,
        "pinned": image.pinned,
    }
