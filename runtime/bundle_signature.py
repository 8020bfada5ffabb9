"""Whether the bundle that this code was unpacked from is the one that was signed.

A bundle lists the SHA-256 of its files in SHA256SUMS; `make bundle SIGN=key` signs that list. Who wants it checked puts the
public key beside the unpacked folder, where an update does not reach it. Then every command checks before it does anything.
Engines that are built on the device are in no list; their manifests say what they were built from.
"""

from __future__ import annotations

from pathlib import Path

from .digest import sha256_of
from .errors import UserError

ROOT = Path(__file__).resolve().parents[1]  # of a bundle: the folder with SHA256SUMS and this package
SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "efficientnet-edge.pub"


def check_signature(root: Path = ROOT) -> None:
    """Does nothing where no PUBLIC_KEY lies beside `root`. Raises UserError if the list was not signed with its private half,
    or a file is not what the list says."""
    key = root.parent / PUBLIC_KEY
    if not key.is_file():
        return
    import subprocess  # what few commands need is not loaded by all

    signature, sums = root / SIGNATURE, root / SUMS
    if not signature.is_file() or not sums.is_file():
        raise UserError(
            f"{root} is not a signed bundle, and {key} asks for one: unpack one made with 'make bundle SIGN='."
        )
    command = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(signature), str(sums)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        raise UserError(f"{key} asks for a signed bundle, and openssl, which checks it, is not installed.") from None
    if done.returncode != 0:
        raise UserError(f"The signature of {sums} is not that of {key}: the bundle is somebody else's, or was changed.")
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if sha256_of(root / name) != digest:
            raise UserError(f"{root / name} is not what the signed list says: it was damaged or changed. Unpack again.")
