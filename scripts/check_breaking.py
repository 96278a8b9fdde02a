"""Fails when the contract breaks older clients (buf's WIRE_JSON rules), against the last release or else the parent commit."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*arguments: str) -> bytes | None:
    """The command's output, or None if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def baseline() -> str | None:
    """The last release before this commit, else the parent commit, else None (a first commit or a shallow clone)."""
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^")
    parent = git("rev-parse", "--verify", "--quiet", "HEAD^")
    found = tag or parent
    return found.decode().strip() if found else None


def breaks(old: Path) -> list[dict[str, str]]:
    """buf's findings for the contract as it lies here, against the module in the folder `old`."""
    buf = [str(ROOT / "node_modules/.bin/buf"), "breaking", "--against", str(old), "--error-format", "json"]
    done = subprocess.run(buf, cwd=ROOT, capture_output=True, text=True)
    findings: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode and not findings:
        raise RuntimeError(f"buf breaking did not run: {done.stderr.strip()}")
    return findings


def main() -> int:
    """Prints every breaking change; 1 if there is one."""
    revision = baseline()
    archive = git("archive", revision, "--", "proto") if revision else None
    if archive is None:
        print("contract: nothing to compare with (no earlier commit here, or it has no contract)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(old, filter="data")
        (old / "buf.yaml").write_bytes((ROOT / "buf.yaml").read_bytes())
        broken = breaks(old)
    for finding in broken:
        print(f"{finding['path']}:{finding['start_line']}: {finding['message']}", file=sys.stderr)
    print(f"contract against {revision}: {len(broken)} breaking changes")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
