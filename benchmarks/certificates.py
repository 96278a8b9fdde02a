"""Certificates made for the occasion by openssl, with keys on an elliptic curve (P-256), which are made in milliseconds."""

from __future__ import annotations

import subprocess
from pathlib import Path

LOCAL = "subjectAltName=IP:127.0.0.1"  # the name that servers here are known by


def make_certificate(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """A new private key and a certificate with that common name, in PEM: the paths of both, whose file names begin with it. It
    vouches for itself unless options of `openssl req` say otherwise. Raises CalledProcessError."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    said = ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *said, *options], check=True, capture_output=True)
    return key, certificate
