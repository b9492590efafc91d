"""Whose bundle it is: `manifest.sig` beside `manifest.json`, an Ed25519 signature over the manifest's bytes.

The manifest holds the SHA-256 of every other file, so that one signature covers the whole bundle. `signing` makes them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from model.runtime.bundles.errors import DamagedFile, Untrusted
from model.runtime.bundles.reading import read_small

SIGNATURE: Final = "manifest.sig"

_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_MOST_SIGNATURE: Final = 4096
"""Bytes of its file, which has two numbers and their names."""


def check_public_key(text: str) -> str:
    """Raises ValueError where `text` is no public key, which is 32 bytes as base64: 44 characters."""
    return _of_bytes(text, _KEY_BYTES, "a public key")


def _check_signature(text: str) -> str:
    return _of_bytes(text, _SIGNATURE_BYTES, "a signature")


def _of_bytes(text: str, count: int, what: str) -> str:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        content = b""
    if len(content) != count or base64.b64encode(content).decode() != text:  # so that a key has one spelling
        raise ValueError(f"no base64 of {count} bytes, which {what} is")
    return text


class Signature(BaseModel):
    """The content of `manifest.sig`, all of it base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, AfterValidator(check_public_key)]
    ed25519: Annotated[str, AfterValidator(_check_signature)]


def check_signature(folder: Path, manifest: bytes, trusted: Collection[str]) -> None:
    """Raises Untrusted unless the bundle in this folder is signed by one of these public keys.

    manifest: the bytes of its `manifest.json`, of which nothing should be believed before.
    """
    # Needed here alone: whoever asks for no signatures need not have it.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    file = folder / SIGNATURE
    try:
        signature = Signature.model_validate_json(read_small(file, _MOST_SIGNATURE))
    except (FileNotFoundError, NotADirectoryError):
        raise Untrusted(
            f"{folder} is not signed (it has no {SIGNATURE}), and only what trusted_keys signed is served; look at it, "
            f"then: maskserve publish {folder} --sign KEY"
        ) from None
    except (ValidationError, DamagedFile):
        raise Untrusted(
            f"{file} is no signature; sign anew what you trust: maskserve publish {folder} --sign KEY"
        ) from None
    if signature.key not in trusted:
        raise Untrusted(f"{folder} is signed by the key {signature.key}, which is none of trusted_keys")
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature.key))
    try:
        key.verify(base64.b64decode(signature.ed25519), manifest)
    except InvalidSignature:
        raise Untrusted(
            f"the signature of {folder} does not fit: its manifest was changed after {signature.key} signed it, or "
            f"the signature is another bundle's; publish or copy the bundle again"
        ) from None
