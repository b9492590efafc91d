"""A signed bundle opens for whoever trusts the key; everything else is refused before it is looked at."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model.runtime.bundles.bundle import Bundle, DamagedFile, ManifestDraft, open_bundle, publish_bundle
from model.runtime.bundles.errors import BundleError, Untrusted
from model.runtime.bundles.publishing import sign
from model.runtime.bundles.repository import Repository
from model.runtime.bundles.signatures import SIGNATURE, check_public_key
from model.runtime.bundles.signing import public_key, signed
from model.runtime.engines.loading import load_engine

OURS = Ed25519PrivateKey.from_private_bytes(bytes(32))
THEIRS = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))
TRUSTED = (public_key(OURS),)


@pytest.fixture
def signed_bundle(bundle: Bundle) -> Bundle:
    sign(bundle, OURS)
    return bundle


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def with_their_network(path: Path) -> None:
    """The network is another, and the manifest says so; the signature is the old one."""
    (path / "model.onnx").write_bytes(b"another")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {"sha256": "0" * 64, "bytes": 7}
    (path / "manifest.json").write_text(json.dumps(manifest))


def signed_by_them_in_our_name(path: Path) -> None:
    signature = base64.b64encode(THEIRS.sign((path / "manifest.json").read_bytes())).decode()
    (path / SIGNATURE).write_text(json.dumps({"key": public_key(OURS), "ed25519": signature}))


def with_the_signature_of_another(path: Path) -> None:
    (path / SIGNATURE).write_bytes(signed(b"another manifest that we signed", OURS))


def signed_by_them(path: Path) -> None:
    (path / SIGNATURE).write_bytes(signed((path / "manifest.json").read_bytes(), THEIRS))


ATTACKS: list[tuple[str, Callable[[Path], object], type[BundleError], str]] = [
    ("not signed", lambda path: (path / SIGNATURE).unlink(), Untrusted, "is not signed.*maskserve publish .* --sign"),
    ("signed by others", signed_by_them, Untrusted, "signed by the key .*, which is none of trusted_keys"),
    ("signed by others, in our name", signed_by_them_in_our_name, Untrusted, "does not fit"),
    ("another bundle's signature", with_the_signature_of_another, Untrusted, "does not fit"),
    ("another network", with_their_network, Untrusted, "does not fit"),
    (
        "another threshold",
        lambda path: edited(path / "manifest.json", '"score_threshold": 0.5', '"score_threshold": 0.1'),
        Untrusted,
        "does not fit",
    ),
    ("one space more", lambda path: edited(path / "manifest.json", "\n}", "\n }"), Untrusted, "does not fit"),
    ("no manifest at all", lambda path: (path / "manifest.json").write_bytes(b""), Untrusted, "does not fit"),
    ("another file", lambda path: (path / "weights.pth").write_bytes(b"WEIGHTS " * 1000), DamagedFile, "was changed"),
    ("a file more", lambda path: (path / "model.data").touch(), Untrusted, r"model\.data is not among the files"),
    ("a hidden file more", lambda path: (path / ".data").touch(), Untrusted, r"\.data is not among the files"),
    ("a folder more", lambda path: (path / "data").mkdir(), Untrusted, r"data is not among the files"),
    ("no JSON", lambda path: (path / SIGNATURE).write_bytes(b"\x00\xff"), Untrusted, "is no signature"),
    ("half a signature", lambda path: edited(path / SIGNATURE, '=="', '"'), Untrusted, "is no signature"),
    ("an empty one", lambda path: (path / SIGNATURE).write_text("{}"), Untrusted, "is no signature"),
    ("a pipe", lambda path: ((path / SIGNATURE).unlink(), os.mkfifo(path / SIGNATURE)), Untrusted, "is no signature"),
    (
        "one without end",
        lambda path: ((path / SIGNATURE).unlink(), (path / SIGNATURE).symlink_to("/dev/zero")),
        Untrusted,
        "is no signature",
    ),
    ("a long one", lambda path: os.truncate(path / SIGNATURE, 1 << 30), Untrusted, "is no signature"),
]


@pytest.mark.parametrize(("attack", "error", "message"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS])
def test_what_the_trusted_key_did_not_sign_is_refused(
    attack: Callable[[Path], object], error: type[BundleError], message: str, signed_bundle: Bundle
) -> None:
    assert open_bundle(signed_bundle.path, trusted=TRUSTED) == signed_bundle
    attack(signed_bundle.path)
    with pytest.raises(error, match=message):
        open_bundle(signed_bundle.path, trusted=TRUSTED)


def test_any_of_several_keys_will_do_and_none_asks_for_nothing(bundle: Bundle) -> None:
    assert open_bundle(bundle.path) == bundle
    sign(bundle, THEIRS)
    assert open_bundle(bundle.path) == bundle
    assert open_bundle(bundle.path, trusted=(*TRUSTED, public_key(THEIRS))) == bundle
    sign(bundle, OURS)  # again, by another key: the last one counts
    assert open_bundle(bundle.path, trusted=TRUSTED) == bundle


def test_every_file_of_a_bundle_is_signed(signed_bundle: Bundle) -> None:
    for name in signed_bundle.manifest.files:
        whole = signed_bundle.file(name).read_bytes()
        signed_bundle.file(name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DamagedFile, match="was changed"):
            open_bundle(signed_bundle.path, trusted=TRUSTED)
        signed_bundle.file(name).write_bytes(whole)


def test_a_network_that_is_replaced_once_it_was_checked_is_not_loaded(signed_bundle: Bundle) -> None:
    """Whoever can write into the repository can do so between the check and the engine's start."""
    opened = open_bundle(signed_bundle.path, trusted=TRUSTED)
    load_engine(opened, device="cpu", threads=1).close()
    network = opened.file("model.onnx")
    network.write_bytes(network.read_bytes() + b"\x08\x08")  # still valid: its ir_version, once more
    with pytest.raises(DamagedFile, match="was changed after publishing"):
        load_engine(opened, device="cpu", threads=1)


def test_an_engine_gets_the_bytes_that_were_checked(signed_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced at the last moment: after it was read and checked, before the engine starts."""
    read = Bundle.read

    def and_replaced(self: Bundle, name: str) -> bytes:
        content = read(self, name)
        self.file(name).write_bytes(b"another network")
        return content

    monkeypatch.setattr(Bundle, "read", and_replaced)
    load_engine(signed_bundle, device="cpu", threads=1).close()


def test_a_signature_is_of_one_name_and_version(signed_bundle: Bundle) -> None:
    """Copied to a higher version, an old bundle that is signed would take over."""
    shutil.copytree(signed_bundle.path, signed_bundle.path.with_name("9"))
    repository = Repository(signed_bundle.path.parents[1], TRUSTED)
    with pytest.raises(BundleError, match="holds tiny version 1 by its manifest"):
        repository.latest("tiny")
    assert repository.get("tiny", 1) == signed_bundle


def test_who_is_not_trusted_does_not_say_a_models_name(
    signed_bundle: Bundle, staging: Path, draft: ManifestDraft, tmp_path: Path
) -> None:
    """In the folder of one model the manifests say its name, the oldest first."""
    mounted = tmp_path / "mounted"
    shutil.copytree(signed_bundle.path, mounted / "2")
    shutil.copytree(publish_bundle(staging, draft, tmp_path / "theirs", "other").path, mounted / "1")
    assert Repository(mounted).models() == {"other": (1, 2)}
    assert Repository(mounted, TRUSTED).models() == {"tiny": (1, 2)}
    assert Repository(mounted / "2", TRUSTED).models() == {"tiny": (1,)}
    with pytest.raises(Untrusted, match="is not signed"):
        Repository(mounted / "1", TRUSTED).models()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("short", id="no base64"),
        pytest.param(TRUSTED[0][:-1], id="without its end"),
        pytest.param(TRUSTED[0] + "\n", id="with a line's end"),
        pytest.param(base64.b64encode(bytes(33)).decode(), id="a byte more"),
        pytest.param(TRUSTED[0][:-2] + chr(ord(TRUSTED[0][-2]) + 1) + "=", id="the same bytes, spelled otherwise"),
    ],
)
def test_a_public_key_has_one_form(text: str) -> None:
    assert check_public_key(public_key(OURS)) == public_key(OURS)
    with pytest.raises(ValueError, match="no base64 of 32 bytes"):
        check_public_key(text)
