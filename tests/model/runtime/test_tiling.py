"""Where tiles lie: the whole picture, at the network's strides, of objects' size; and which are seen again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from model.architecture import ArchitectureConfig
from model.runtime.preprocess import Preprocessing, scaled
from model.runtime.tiling import MOST, STEP, Tile, TooManyTiles, plan_tiles, smaller_tiles, tile_side

NUCLEI = ArchitectureConfig(
    anchor_sizes=((8,), (16,), (32,), (64,), (128,)), detections_per_image=400, min_size=256, max_size=1536
)


@pytest.mark.parametrize("shift", [(0, 0), (64, 0), (1000, 128), (37, 91)])
@pytest.mark.parametrize(
    ("size", "side", "overlap"),
    [((1, 1), 128, 0), ((128, 128), 128, 64), ((129, 1000), 128, 32), ((777, 1234), 256, 51), ((300, 300), 100, 50)],
)
def test_tiles_cover_the_picture_overlap_and_begin_at_strides(
    size: tuple[int, int], side: int, overlap: int, shift: tuple[int, int]
) -> None:
    tiles = plan_tiles(size, side, overlap, shift)
    covered = np.zeros(size, int)
    for tile in tiles:
        if shift[0] % STEP == shift[1] % STEP == 0 and overlap <= side - STEP:
            assert tile.top % (STEP // 2) == tile.left % (STEP // 2) == 0
            assert side < 4 * STEP or tile.top % STEP == tile.left % STEP == 0
        assert max(tile.height, tile.width) < side + STEP
        tile.of(covered)[:] += 1  # type: ignore[arg-type]  # a view of any array
    assert covered.min() >= 1
    for starts, length in (({t.left: t.width for t in tiles}, size[1]), ({t.top: t.height for t in tiles}, size[0])):
        ends = [start + span for start, span in sorted(starts.items())]
        assert ends[-1] == length
        assert all(end - start >= overlap for end, start in zip(ends, sorted(starts)[1:], strict=False))


@pytest.mark.parametrize(
    ("size", "side", "overlap", "scale"),
    [((20_000, 20_000), 100, 50, 1.0), ((4000, 5000), 100, 50, 4.0), ((2**31, 1), 1000, 0, 1.0)],
)
def test_more_tiles_than_are_kept_in_mind_are_refused(
    size: tuple[int, int], side: int, overlap: int, scale: float
) -> None:
    with pytest.raises(TooManyTiles, match=r"that would be \d+ tiles, and at most 50000 are seen"):
        plan_tiles(size, side, overlap, scale=scale)
    assert len(plan_tiles((20_000, 20_000), 128, 32)) <= MOST, "tiles of any side are seen of large pictures"


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="an overlap of 65 does not fit tiles of 128"):
        plan_tiles((500, 500), 128, 65)


@pytest.mark.parametrize(
    ("tile", "found", "sure", "count", "why"),
    [
        (Tile(64, 128, 512, 512), 199, 199, 0, "few enough"),
        (Tile(64, 128, 512, 512), 200, 200, 4, "five of 1,000 proposals show each object"),
        (Tile(64, 128, 512, 512), 399, 199, 0, "what a low threshold finds besides is no crowd"),
        (Tile(64, 128, 512, 512), 400, 0, 4, "more than can be given"),
        (Tile(64, 128, 512, 560), 400, 400, 4, "one at the picture's border is longer"),
        (Tile(0, 0, 300, 600), 400, 400, 4, "a flat one"),
        (Tile(64, 128, 384, 384), 400, 400, 4, "parts show enough around an object"),
        (Tile(64, 128, 319, 319), 400, 400, 0, "parts would be as long"),
        (Tile(64, 128, 256, 256), 400, 400, 0, "smaller ones show too little around an object"),
    ],
)
def test_a_crowded_tile_is_seen_again_in_smaller_ones_that_cover_it(
    tile: Tile, found: int, sure: int, count: int, why: str
) -> None:
    preprocessing = Preprocessing.from_architecture(NUCLEI)
    parts = smaller_tiles(tile, found, sure, NUCLEI, preprocessing)
    assert len(parts) == count, why
    covered = np.zeros((800, 800), int)
    for part in parts:
        covered[part.top : part.top + part.height, part.left : part.left + part.width] += 1
    inside = covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    assert covered.sum() == inside.sum()
    assert not parts or inside.min() >= 1


def test_no_tile_is_split_into_what_the_network_would_enlarge() -> None:
    tile = Tile(0, 0, 1024, 1024)
    for min_size, side in ((256, 704), (512, 704), (704, 704)):
        parts = smaller_tiles(tile, 400, 400, NUCLEI, Preprocessing(min_size=min_size, max_size=1536))
        assert {(part.height, part.width) for part in parts} == {(side, side)}
        assert len(parts) == 4
    assert not smaller_tiles(tile, 400, 400, NUCLEI, Preprocessing(min_size=705, max_size=1536))


@pytest.mark.parametrize(
    ("size", "preprocessing", "anchor", "side"),
    [
        pytest.param((3120, 4176), (256, 1536, False), 128, 768, id="a mosaic that would be shrunk"),
        pytest.param((3120, 4176), (256, 1536, False), 32, 768, id="objects are small, but what is around them counts"),
        pytest.param((3120, 4176), (256, 1536, False), 200, 832, id="objects are larger"),
        pytest.param((3120, 4176), (256, 1536, False), 512, 1024, id="very large ones are joined"),
        pytest.param((3120, 4176), (256, 700, False), 200, 700, id="no larger than the network takes"),
        pytest.param((3120, 4176), (800, 1333, False), 128, 832, id="no smaller than the network takes"),
        pytest.param((1536, 1536), (256, 1536, False), 128, None, id="as large as the network takes"),
        pytest.param((100, 4000), (256, 1536, False), 128, 768, id="a strip, which would be shrunk, too"),
        pytest.param((4000, 1), (256, 1536, False), 128, 768, id="a line"),
        pytest.param((100, 1536), (256, 1536, False), 128, None, id="a short strip"),
        pytest.param((3024, 4032), (256, 1536, True), 128, None, id="a photograph, learned from shrunk ones"),
    ],
)
def test_auto_tiles_what_would_be_seen_smaller_than_trained(
    size: tuple[int, int], preprocessing: tuple[int, int, bool], anchor: int, side: int | None
) -> None:
    architecture = NUCLEI.model_copy(update={"anchor_sizes": ((8,), (16,), (32,), (64,), (anchor,))})
    least, most, downscale = preprocessing
    seen = Preprocessing(min_size=least, max_size=most, allow_downscale=downscale)
    assert tile_side(architecture, seen, size) == side


@pytest.mark.parametrize("scale", [0.05, 0.3, 0.5, 0.7, 1.0, 2.0, 3.3, 20.0])
@pytest.mark.parametrize(("side", "overlap"), [(512, 128), (256, 128), (100, 0)])
def test_tiles_at_a_scale_are_of_the_side_that_the_network_sees(scale: float, side: int, overlap: int) -> None:
    size = scaled((1500, 2111), 1 / scale)
    tiles = plan_tiles(size, side, overlap, scale=scale)
    rows = sorted({(tile.top, tile.top + tile.height) for tile in tiles})
    columns = sorted({(tile.left, tile.left + tile.width) for tile in tiles})
    for spans, length in ((rows, size[0]), (columns, size[1])):
        assert (spans[0][0], spans[-1][1]) == (0, length)
        for (start, end), (following, _) in pairwise(spans):
            assert start < following <= end
            assert abs((end - start) * scale - side) <= scale
            assert (end - following) * scale >= overlap - scale
    assert len(tiles) == len(plan_tiles(scaled(size, scale), side, overlap))


@pytest.mark.parametrize(
    ("size", "scale", "side", "why"),
    [
        ((3000, 4000), 0.3, None, "not longer than max_size at that scale"),
        ((3000, 4000), 0.5, 768, "longer"),
        ((100, 800), 2.0, 768, "flat, but not to be shrunk"),
        ((100, 700), 2.0, None, "fits"),
    ],
)
def test_a_scale_cuts_what_it_makes_longer_than_max_size(
    size: tuple[int, int], scale: float, side: int | None, why: str
) -> None:
    for shrinks in (False, True):
        seen = Preprocessing(min_size=256, max_size=1536, allow_downscale=shrinks)
        assert tile_side(NUCLEI, seen, size, scale) == side, why


@pytest.mark.parametrize("scale", [0.05, 0.3, 0.7, 0.95, 1.0, 2.0, 3.3, 20.0])
def test_crowded_tiles_at_a_scale_are_split_as_the_network_sees_them(scale: float) -> None:
    tiles = plan_tiles(scaled((2000, 2000), 1 / scale), 512, 128, scale=scale)
    parts = smaller_tiles(tiles[0], 400, 400, NUCLEI, Preprocessing(min_size=800, max_size=1536), scale)
    assert len(parts) == 4
    assert {round(part.width * scale / 384) for part in parts} == {1}


@pytest.mark.parametrize("scale", [None, 0.3, 1.0, 3.3])
def test_parts_are_smaller_than_their_tile(scale: float | None) -> None:
    """So that splitting ends, and no part is the tile itself, which would never be answered for."""
    preprocessing = Preprocessing(min_size=256, max_size=1536)
    for height in range(1, 900, 53):
        for width in (256, 319, 320, 384, 447, 511, 512, 575, 768, 831):
            parts = smaller_tiles(Tile(64, 0, height, width), 400, 400, NUCLEI, preprocessing, scale)
            assert len(parts) != 1
            assert all(part.height * part.width < height * width for part in parts)
