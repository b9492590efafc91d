"""The name of an image's format, told from its first bytes alone: nothing is parsed, no decoder runs."""

from __future__ import annotations

from typing import Final

# (offset, bytes, name). Longest and rarest first where one begins like another.
_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WEBP"),
    (0, b"BM", "BMP"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\0\0\x02\0", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"%!PS", "EPS"),
    (0, b"%PDF-", "PDF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"gimp xcf", "XCF"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    *((0, b"P%d%c" % (kind, space), "PNM") for kind in range(1, 8) for space in b" \t\r\n"),
)

_HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def sniff_format(data: bytes) -> str | None:
    """Name of the format, Pillow's name where Pillow reads it ("JPEG", "PNG", ...); None when no image begins so."""
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name if name != "WEBP" or data.startswith(b"RIFF") else None
    if data.startswith(b"ftyp", 4):  # ISO/IEC 23008-12: a box length, "ftyp", the major brand, compatible brands
        brand = data[8:12]
        if brand in (b"avif", b"avis") or (brand in _HEIF_BRANDS and b"avif" in data[16:64]):
            return "AVIF"
        return "HEIC" if brand in _HEIF_BRANDS else None
    return "SVG" if b"<svg" in data[:1024] else None
