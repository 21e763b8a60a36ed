"""The certificate of the streaming server follows its files."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from cri.streaming.certificates import Certificates
from runtime.errors import FailedPrecondition

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, which makes certificates")


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """A key and a certificate for ``name``, in the files that the server reads."""
    cert, key = folder / "tls.crt", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", f"/CN={name}", "-keyout", f"{key}.new", "-out", f"{cert}.new"]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(f"{key}.new", key)
    os.replace(f"{cert}.new", cert)
    return str(cert), str(key)


async def name_served(certificates: Certificates) -> str:
    """What a client sees."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.context)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    shown = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-noout", "-subject"], input=found, capture_output=True
    )
    return str(shown.stdout, "ascii").rpartition("=")[2].strip()


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    certificates = Certificates(*make_certificate(tmp_path, "old"))
    assert await name_served(certificates) == "old"
    make_certificate(tmp_path, "new")
    assert await name_served(certificates) == "new"


async def test_half_a_renewal_leaves_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificates = Certificates(*make_certificate(tmp_path, "old"))
    (tmp_path / "tls.crt").write_text("-----BEGIN CERT")
    assert await name_served(certificates) == "old"
    (tmp_path / "tls.crt").unlink()
    assert await name_served(certificates) == "old"
    assert "the old one stays" in caplog.text
    make_certificate(tmp_path, "new")
    assert await name_served(certificates) == "new"


def test_files_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    cert, _ = make_certificate(tmp_path, "x")
    for files in ((cert, str(tmp_path / "none")), (cert, cert)):
        with pytest.raises(FailedPrecondition, match="read the streaming certificate"):
            Certificates(*files)
