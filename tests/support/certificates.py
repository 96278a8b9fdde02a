"""Certificates made for the occasion."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

OPENSSL = shutil.which("openssl")


def certificate(folder: Path, name: str) -> tuple[bytes, bytes]:
    """A new key and a certificate that it vouches for itself, of a server at 127.0.0.1 or of a client."""
    key, chain = folder / f"{name}.key", folder / f"{name}.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    said = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([*make, *said], check=True, capture_output=True)
    return key.read_bytes(), chain.read_bytes()
