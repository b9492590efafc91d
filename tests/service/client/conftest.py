from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.harness import encode, picture


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASKSERVE_CLIENT_URL", "MASKSERVE_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images of different sizes, one of them in a folder below."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.JPG", "more/c.tiff"]):
        form = {"png": "PNG", "jpg": "JPEG", "tiff": "TIFF"}[name.rpartition(".")[2].lower()]
        (folder / name).write_bytes(encode(picture(seed, (64, 70 + seed)), form))
    (folder / "readme.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder
