"""The private half of a bundle's signature. `signatures` checks what is made here.

Keys are PEM files as OpenSSL writes them (PKCS #8), without a passphrase. No message holds anything of their content.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from model.runtime.bundles.signatures import Signature

_HOW: Final = "make one with: maskserve publish --create_key FILE"


class KeyFileError(Exception):
    """A key cannot be read or written; the message says why, in one line."""


def create_key(file: Path) -> str:
    """Write a new private key, which only the user may read, and return its public key.

    Raises KeyFileError, also where there is a file already: a lost key signs nothing any more.
    """
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(handle)
    except FileExistsError:
        raise KeyFileError(
            f"{file} is there already, and a key that is overwritten is lost: give another name"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{file} cannot be written: {error.strerror}") from None
    return public_key(key)


def read_key(file: Path) -> Ed25519PrivateKey:
    """Raises KeyFileError."""
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}") from None
    except TypeError:  # what cryptography raises where a password is missing
        raise KeyFileError(f"{file} is locked by a passphrase; give a key without one, or {_HOW}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{file} is no private key in PEM form; {_HOW}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{file} is a key of another kind than Ed25519; {_HOW}")
    return key


def public_key(key: Ed25519PrivateKey) -> str:
    """As `trusted_keys` takes it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signed(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The content of `manifest.sig` for a `manifest.json` of these bytes."""
    signature = Signature(key=public_key(key), ed25519=base64.b64encode(key.sign(manifest)).decode())
    return signature.model_dump_json(indent=2).encode() + b"\n"
