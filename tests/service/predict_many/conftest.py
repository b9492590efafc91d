from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.harness import encode, picture

SIZES = ((64, 64), (64, 70), (90, 64))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 36 images of three sizes, 12 of them in a folder below, and 4 that cannot be predicted."""
    folder = tmp_path_factory.mktemp("many") / "images"
    (folder / "below").mkdir(parents=True)
    for seed in range(36):
        name = f"below/{seed:02}.png" if seed % 3 == 0 else f"{seed:02}.png"
        (folder / name).write_bytes(encode(picture(seed, SIZES[seed % 3])))
    whole = encode(picture(0))
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "zz.png").symlink_to("nowhere")
    (folder / "notes.txt").write_text("no list of images")
    (folder / ".hidden.png").write_bytes(whole)
    return folder
