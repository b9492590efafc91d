"""`maskserve publish`: keys, signatures, and bundles into another repository."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from model.runtime.bundles.bundle import Bundle, open_bundle
from model.runtime.bundles.publishing import main
from model.runtime.bundles.signatures import SIGNATURE


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """A key's file, and its public key."""
    file = tmp_path / "signing.pem"
    assert main(["--create_key", str(file)]) == 0
    return file, capsys.readouterr().out.strip()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said, in one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in arguments])
    said = capsys.readouterr()
    assert (stopped.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err


def test_a_key_is_its_users_alone_and_is_never_shown(
    key: tuple[Path, str], bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    file, public = key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = file.read_text().splitlines()[1]
    assert main([str(bundle.path), "--sign", str(file)]) == 0
    said = capsys.readouterr()
    assert said.err == f"published {bundle.path}, signed by the key {public}\n"
    assert secret not in said.out + said.err
    assert secret not in (bundle.path / SIGNATURE).read_text()
    assert "is there already" in refused(capsys, "--create_key", file)
    assert secret in file.read_text()


def test_a_bundle_is_signed_where_it_is(key: tuple[Path, str], bundle: Bundle) -> None:
    file, public = key
    before = {one.name: one.read_bytes() for one in bundle.path.iterdir()}
    assert main([str(bundle.path), "--sign", str(file)]) == 0
    assert open_bundle(bundle.path, trusted=[public]) == bundle
    after = {one.name: one.read_bytes() for one in bundle.path.iterdir()}
    assert after.keys() - before.keys() == {SIGNATURE}
    assert before.items() < after.items()


def test_a_bundle_is_copied_with_the_signature_it_has_or_gets(
    key: tuple[Path, str], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, public = key
    for folder, flags in (("plain", []), ("signed", ["--sign", str(file)])):
        assert main([str(bundle.path), "--output", str(tmp_path / folder), *flags]) == 0
        assert open_bundle(tmp_path / folder / "tiny" / "1").manifest == bundle.manifest
    assert not (bundle.path / SIGNATURE).exists()
    assert main([str(tmp_path / "signed" / "tiny" / "1"), "--output", str(tmp_path / "again")]) == 0
    assert open_bundle(tmp_path / "again" / "tiny" / "1", trusted=[public]).manifest == bundle.manifest
    assert "never changes" in refused(capsys, bundle.path, "--output", tmp_path / "again")
    assert open_bundle(tmp_path / "again" / "tiny" / "1", trusted=[public])
    assert sorted(one.name for one in (tmp_path / "again").iterdir()) == ["tiny"]


def test_what_is_damaged_is_not_published_nor_signed(
    key: tuple[Path, str], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.file("weights.pth").write_bytes(b"WEIGHTS " * 1000)
    for flags in (["--sign", key[0]], ["--output", tmp_path / "other"]):
        assert "was changed after publishing" in refused(capsys, bundle.path, *flags)
    assert not (bundle.path / SIGNATURE).exists()
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_meant_is_refused(
    key: tuple[Path, str], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is nothing to do" in refused(capsys, bundle.path)
    assert "give a bundle to publish" in refused(capsys)
    assert "and not both" in refused(capsys, bundle.path, "--create_key", tmp_path / "new.pem")
    assert "leave --output and --sign out" in refused(capsys, "--create_key", tmp_path / "new.pem", "--sign", key[0])
    assert "is no bundle" in refused(capsys, tmp_path, "--sign", key[0])
    assert "one level up" in refused(capsys, bundle.path, "--output", bundle.path.parent)
    assert "cannot be written" in refused(capsys, "--create_key", tmp_path / "no" / "new.pem")


def pem(key: object = None, encryption: KeySerializationEncryption | None = None) -> bytes:
    key = key or Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read: No such file", id="no file"),
        pytest.param(b"", "is no private key in PEM form", id="empty"),
        pytest.param(b"not a key, but a secret", "is no private key in PEM form", id="a text"),
        pytest.param(pem()[:60], "is no private key in PEM form", id="cut short"),
        pytest.param(pem(generate_private_key(SECP256R1())), "another kind than Ed25519", id="of another kind"),
        pytest.param(pem(None, BestAvailableEncryption(b"x")), "locked by a passphrase", id="with a passphrase"),
        pytest.param(
            Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "is no private key in PEM form",
            id="a public key",
        ),
    ],
)
def test_what_is_no_key_is_told_without_its_content(
    content: bytes | None, message: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "signing.pem"
    if content is not None:
        file.write_bytes(content)
    said = refused(capsys, bundle.path, "--sign", file)
    assert message in said
    assert not [line for line in (content or b"").decode().splitlines() if line in said]
    assert not (bundle.path / SIGNATURE).exists()


def test_a_key_in_place_of_its_file_is_not_shown(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--sign "$(cat signing.pem)"` gives it."""
    key = pem().decode().strip()
    for words in (["--sign", key], [f"--sign={key}"], ["--sing", key], [key]):
        said = refused(capsys, bundle.path, *words)
        assert "give the name of the file" in said
        assert key.splitlines()[1] not in said


def test_a_key_of_openssl_signs_too(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "openssl.pem"
    try:
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    assert main([str(bundle.path), "--sign", os.fspath(file)]) == 0
