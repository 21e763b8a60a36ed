"""proto/api.proto is the published interface: same names, numbers, types and options.

The published file comes with the Go module named in go.mod beside this test, which the Go
client downloads (its content is checked against go.sum); without Go the comparison is
skipped by name. The counts below hold in any case.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from proto import admin_pb2, api_pb2, api_pb2_grpc

HERE = Path(__file__).parent
Facts = dict[str, tuple[object, ...]]


def ours() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    api_pb2.DESCRIPTOR.CopyToProto(file)
    return file


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    if shutil.which("go") is None:
        pytest.skip("needs Go: it downloads the module that publishes the interface")
    # The client writes go.sum only if told to; a copy keeps the checkout as it is in any case.
    folder = tmp_path_factory.mktemp("module")
    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / name, folder)
    command = ["go", "mod", "download", "-json", "k8s.io/cri-api"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        if "SECURITY ERROR" in done.stderr + done.stdout:
            pytest.fail(done.stderr + done.stdout)
        pytest.skip(f"needs the Go module proxy, which cannot be reached: {done.stderr.strip()[:200]}")
    source = Path(json.loads(done.stdout)["Dir"]) / "pkg/apis/runtime/v1"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", "--descriptor_set_out=out", "api.proto"]
    subprocess.run(protoc, cwd=folder, check=True, timeout=30)
    files = descriptor_pb2.FileDescriptorSet.FromString((folder / "out").read_bytes())
    return files.file[0]


def facts(file: descriptor_pb2.FileDescriptorProto) -> Facts:
    """Everything that decides the bytes on the wire and the names in Python, by dotted name."""
    found: Facts = {"package": (file.package, file.syntax)}
    for service in file.service:
        for method in service.method:
            streams = (method.client_streaming, method.server_streaming)
            found[f"{service.name}.{method.name}"] = (method.input_type, method.output_type, *streams)
    for enum in file.enum_type:
        found |= enum_facts("", enum)
    for message in file.message_type:
        found |= dict(message_facts("", message))
    return found


def enum_facts(prefix: str, enum: descriptor_pb2.EnumDescriptorProto) -> Facts:
    return {f"enum {prefix}{enum.name}": tuple((value.name, value.number) for value in enum.value)}


def message_facts(prefix: str, message: descriptor_pb2.DescriptorProto) -> Iterator[tuple[str, tuple[object, ...]]]:
    name = f"{prefix}{message.name}"
    yield f"message {name}", (message.options.map_entry, tuple(oneof.name for oneof in message.oneof_decl))
    for field in message.field:
        options = field.options
        kind = (field.number, field.type, field.label, field.type_name)
        yield f"{name}.{field.name}", (*kind, options.deprecated, options.debug_redact)
    for nested in message.nested_type:
        yield from message_facts(f"{name}.", nested)
    for enum in message.enum_type:
        yield from enum_facts(f"{name}.", enum).items()


def test_the_interface_equals_the_published_one(published: descriptor_pb2.FileDescriptorProto) -> None:
    assert facts(ours()) == facts(published)


def test_a_changed_number_type_or_option_is_noticed() -> None:
    changed = ours()
    changed.message_type[0].field[0].number = 9
    assert facts(changed) != facts(ours())
    changed = ours()
    changed.service[0].method[0].server_streaming = True
    assert facts(changed) != facts(ours())
    changed = ours()
    next(message for message in changed.message_type if message.name == "AuthConfig").field[1].ClearField("options")
    assert facts(changed) != facts(ours())


def test_the_interface_has_43_rpcs_and_175_messages() -> None:
    file = ours()
    counts = {service.name: len(service.method) for service in file.service}
    assert counts == {"RuntimeService": 37, "ImageService": 6}
    assert len(file.message_type) == 175
    assert hasattr(api_pb2_grpc, "RuntimeServiceStub")


def test_secrets_are_marked_as_such() -> None:
    fields = api_pb2.AuthConfig.DESCRIPTOR.fields
    redacted = {field.name for field in fields if field.GetOptions().debug_redact}
    assert redacted == {"password", "auth", "identity_token", "registry_token"}


def test_admin_and_cri_do_not_share_a_package() -> None:
    assert admin_pb2.DESCRIPTOR.package == "crisp.v1"
    (service,) = admin_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "crisp.v1.Admin"
    streaming = {method.name for method in service.methods if method.client_streaming}
    assert streaming == {"ImportImage"}


def test_every_admin_message_is_used_by_an_rpc() -> None:
    (service,) = admin_pb2.DESCRIPTOR.services_by_name.values()
    used: set[str] = set()
    waiting = [kind for method in service.methods for kind in (method.input_type, method.output_type)]
    while waiting:
        message = waiting.pop()
        used.add(message.name)
        waiting += [field.message_type for field in message.fields if field.message_type is not None]
    assert used == set(admin_pb2.DESCRIPTOR.message_types_by_name)
