"""What a member is started with: the settings as they were said, and what nobody said."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from service.group import shares
from service.group.handover import LENGTH_BYTES, Part, plain
from service.http.keys import Keys
from service.settings.configuration import parse_settings


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "list_devices", lambda choice: ("cuda:0", "cuda:1"))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("where", ["flag", "environment", "file", "nowhere"])
def test_a_member_knows_whether_anybody_said_a_precision(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody did, the engine cuda may take f16."""
    flags = ["--processes=auto", "--api-keys=0123456789abcdef0123456789abcdef"]
    if where == "flag":
        flags.append("--precision=f32")
    elif where == "environment":
        monkeypatch.setenv("MASKSERVE_PRECISION", "f32")
    elif where == "file":
        (tmp_path / "settings.toml").write_text('precision = "f32"')
        flags.append(f"--config={tmp_path / 'settings.toml'}")
    settings = parse_settings(flags)
    members = []
    for index, share in enumerate(shares.share_out(settings)):
        packed = Part(replace(share, settings=plain(share.settings)), Keys([], []), index).packed()
        members.append(pickle.loads(packed[LENGTH_BYTES:]).share.settings)
    assert [member.device for member in members] == ["cuda:0", "cuda:1"]
    for member in members:
        assert member.precision == "f32"
        assert member.names_precision == settings.names_precision == (where != "nowhere")
        assert member.api_keys == ()
