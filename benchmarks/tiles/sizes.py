"""Pictures of growing size through a server: pixel rate, memory, and the share of time outside the network.

Each picture repeats the given images in a tiled TIFF, whose body the client streams. The rate of single tiles, sent one
after the other to the same server, is what the rate of the picture's tiles compares with.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tifffile import imwrite

from benchmarks.measure import OtherLoad
from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.tiling import plan_tiles

FILE_TILE = 512
"""Side of the file's tiles in pixels."""
SINGLE_TILES = 8
LEAST_BYTES = 32 * 1024**2
"""What the server takes unless told otherwise."""


@dataclass(frozen=True)
class Measured:
    """One picture. Megapixels a second are the picture's, those of its tiles (which overlap; one that is seen again in
    smaller ones counts once), and those of single tiles; the share outside the network is of the whole request's time.
    The server's peak memory is that since its start. `other_load`: the share of all cores that other processes used
    meanwhile; None where that is unknown."""

    side: int
    file_bytes: int
    tiles: int
    detections: int
    seconds: float
    picture_rate: float
    tile_rate: float
    single_tile_rate: float
    outside_share: float
    peak_bytes: int
    other_load: float | None


class Server:
    """`python -m service` with one bundle's repository on a free port."""

    def __init__(self, repository: Path, max_bytes: int, precision: PrecisionChoice) -> None:
        command = [sys.executable, "-m", "service", "--port", "0", "--models", str(repository)]
        command += ["--precision", precision]
        command += ["--max-body-bytes", str(max_bytes), "--upload-timeout-ms", "600000", "--timeout-ms", "600000"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if ready := re.search(r"ready at (http://\S+)", line):
                self.url = ready[1]
                return
        raise RuntimeError("the server did not start")

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate()


def write_picture(file: Path | BytesIO, images: Sequence[NDArray[np.uint8]], side: int) -> None:
    """A TIFF of side x side pixels in tiles: the images, uint8 [H, W, 3], in turn, in places of the largest one's
    size, black around the smaller ones."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))

    def tiles() -> Iterator[NDArray[np.uint8]]:
        columns = -(-side // width)
        for top in range(0, side, FILE_TILE):
            first, last = top // height, (top + FILE_TILE - 1) // height
            band = np.zeros(((last - first + 1) * height, columns * width, 3), np.uint8)
            for row in range(first, last + 1):
                for column in range(columns):
                    image = images[(row * columns + column) % len(images)]
                    y, x = (row - first) * height, column * width
                    band[y : y + image.shape[0], x : x + image.shape[1]] = image
            band = band[top - first * height :][:FILE_TILE]
            for left in range(0, side, FILE_TILE):
                tile = np.zeros((FILE_TILE, FILE_TILE, 3), np.uint8)
                part = band[: side - top, left : min(left + FILE_TILE, side)]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "predictor": True}
    imwrite(file, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(FILE_TILE, FILE_TILE), **options)


def measure(
    repository: Path,
    images: Sequence[NDArray[np.uint8]],
    side: int,
    tile: int,
    overlap: int,
    precision: PrecisionChoice = "f32",
) -> Measured:
    """One picture through a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.tif"
        write_picture(path, images, side)
        server = Server(repository, max(path.stat().st_size, LEAST_BYTES), precision)
        try:
            with httpx.Client(base_url=server.url, timeout=None) as client:
                single = _single_tiles(client, images, tile)
                load = OtherLoad([server.process.pid])
                start = time.perf_counter()
                with path.open("rb") as file:
                    answer = client.post(
                        f"/predict?tile={tile}&overlap={overlap}", content=file, headers={"Content-Type": "image/tiff"}
                    )
                seconds = time.perf_counter() - start
                answer.raise_for_status()
                return _measured(side, tile, overlap, path, answer.json(), seconds, single, server, load)
        finally:
            server.stop()


def _single_tiles(client: httpx.Client, images: Sequence[NDArray[np.uint8]], tile: int) -> float:
    """Megapixels a second of tiles of the picture that are sent alone, one after the other, after one that does not
    count. Each shows other images, for a crowded one takes longer."""
    places = -(-tile // max(image.shape[0] for image in images)) * -(-tile // max(image.shape[1] for image in images))
    most = (SINGLE_TILES + 1) * places
    shown = [images[number * len(images) // most] for number in range(most)]
    for number in range(SINGLE_TILES + 1):
        file = BytesIO()
        write_picture(file, shown[number * places :][:places], tile)
        if number == 1:
            start = time.perf_counter()
        headers = {"Content-Type": "image/tiff"}
        client.post("/predict?tile=off", content=file.getvalue(), headers=headers).raise_for_status()
    return SINGLE_TILES * tile * tile / 1e6 / (time.perf_counter() - start)


def _measured(
    side: int,
    tile: int,
    overlap: int,
    path: Path,
    answer: dict[str, Any],
    seconds: float,
    single: float,
    server: Server,
    load: OtherLoad,
) -> Measured:
    planned = plan_tiles((side, side), tile, overlap)
    pixels = sum(one.height * one.width for one in planned) / 1e6
    return Measured(
        side=side,
        file_bytes=path.stat().st_size,
        tiles=answer["image"].get("tiles", 1),
        detections=len(answer["scores"]),
        seconds=seconds,
        picture_rate=side * side / 1e6 / seconds,
        tile_rate=pixels / seconds,
        single_tile_rate=single,
        outside_share=max(0.0, 1 - answer["timing_ms"]["inference"] / 1e3 / seconds),
        peak_bytes=server.peak_bytes(),
        other_load=load.share(),
    )


def row(one: Measured) -> str:
    other = "unknown" if one.other_load is None else f"{one.other_load:.0%}"
    return (
        f"{one.side:6} a side  {one.tiles:4} tiles  {one.detections:6} found  {one.seconds:7.1f} s  "
        f"{one.picture_rate:5.2f} MP/s ({one.tile_rate:5.2f} of tiles, single ones {one.single_tile_rate:5.2f})  "
        f"{one.outside_share:4.0%} outside the network  {one.peak_bytes / 2**20:6.0f} MiB  other load {other}"
    )
