"""A bundle that is there already to another repository, signed or as it is; and the keys to sign with.

maskserve publish models/nuclei/1 --sign signing.pem
maskserve publish models/nuclei/1 --output /srv/models --sign signing.pem
maskserve publish --create_key signing.pem
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model.console.arguments import Parser
from model.console.outputs import write_whole
from model.console.running import interruptible
from model.runtime.bundles.bundle import (
    MANIFEST,
    Bundle,
    BundleError,
    PublishError,
    open_bundle,
    why_no_repository,
)
from model.runtime.bundles.signatures import SIGNATURE
from model.runtime.bundles.signing import KeyFileError, create_key, public_key, read_key, signed
from model.runtime.bundles.writing import copy_file, hidden_folder, sync_folder, write_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Publishes one bundle, or makes a key; returns the exit status."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    if any("PRIVATE KEY" in word for word in given):  # which what is said about a wrong argument would show
        parser.error("a key itself is among the arguments; give the name of the file that holds it")
    asked = parser.parse_args(given)
    if (asked.create_key is None) == (asked.bundle is None):
        parser.error("give a bundle to publish, or --create_key FILE, and not both")
    if asked.create_key is not None and (asked.output or asked.sign):
        parser.error("--create_key makes a key and nothing else: leave --output and --sign out")
    if asked.bundle is not None and not (asked.output or asked.sign):
        parser.error("give --sign KEY, --output REPOSITORY, or both: else there is nothing to do")
    try:
        if asked.create_key is not None:
            print(create_key(asked.create_key))
            print(f"wrote {asked.create_key}; its public key, for trusted_keys, is on stdout", file=sys.stderr)
            return 0
        key = None if asked.sign is None else read_key(asked.sign)
        bundle = open_bundle(asked.bundle)
        if asked.output is not None:
            bundle = publish(bundle, asked.output, key)
        elif key is not None:
            sign(bundle, key)
    except (BundleError, KeyFileError) as error:
        parser.error(str(error))
    except OSError as error:
        print(f"error: {error.filename or asked.output or asked.bundle}: {error.strerror}", file=sys.stderr)
        return 1
    by = "" if key is None else f", signed by the key {public_key(key)}"
    print(f"published {bundle.path}{by}", file=sys.stderr)
    return 0


def sign(bundle: Bundle, key: Ed25519PrivateKey) -> None:
    """Write the bundle's signature beside its manifest, in place of one that may be there.

    Raises BundleError where something in the folder is then still not signed, and OSError.
    """
    write_whole(bundle.path / SIGNATURE, signed(_manifest_of(bundle), key))
    open_bundle(bundle.path, trusted=[public_key(key)])


def publish(bundle: Bundle, repository: Path, key: Ed25519PrivateKey | None) -> Bundle:
    """Copy a bundle into a repository, under its own name and version, with its signature or that of `key`.

    It appears there with one rename, complete, as what `publish_bundle` makes does.

    Raises:
        PublishError: `repository` is a bundle or one model's folder, or has that version.
        DamagedFile: the bundle's files changed meanwhile.
        OSError: the repository cannot be written.
    """
    if reason := why_no_repository(repository):
        raise PublishError(reason)
    name, version = bundle.manifest.name, bundle.manifest.version
    versions = repository / name
    versions.mkdir(parents=True, exist_ok=True)
    with hidden_folder(repository, name) as hidden:
        manifest = _manifest_of(bundle)
        for file in bundle.manifest.files:
            copy_file(bundle.file(file), hidden / file)
        write_file(hidden / MANIFEST, manifest)
        if key is not None:
            write_file(hidden / SIGNATURE, signed(manifest, key))
        elif (bundle.path / SIGNATURE).is_file():
            copy_file(bundle.path / SIGNATURE, hidden / SIGNATURE)
        # What was copied: another process may have changed it meanwhile.
        open_bundle(hidden, trusted=[] if key is None else [public_key(key)])
        sync_folder(hidden)
        target = versions / str(version)
        try:
            hidden.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise PublishError(
                f"{target} is there already, and a published version never changes; publish a newer version"
            ) from None
        sync_folder(versions)
        sync_folder(repository)
        return Bundle(target, bundle.manifest)


def _manifest_of(bundle: Bundle) -> bytes:
    return (bundle.path / MANIFEST).read_bytes()


def _parser() -> Parser:
    parser = Parser(prog="maskserve publish", description="Sign a bundle, copy it into a repository, or both.")
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="a bundle's folder NAME/VERSION")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="model repository to copy it into; default: it stays where it is"
    )
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help=f"file of the private key, in PEM form, that signs it: {SIGNATURE} beside its manifest",
    )
    parser.add_argument(
        "--create_key",
        type=Path,
        metavar="FILE",
        help="write a new private key, for --sign; its public key, for the server's trusted_keys, goes to stdout",
    )
    return parser


if __name__ == "__main__":
    sys.exit(interruptible(main))
