"""Small valid files of every accepted format, in many variants: what `damage` damages."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from tests.model.runtime.images.pictures import encode, picture

SIZE = (24, 40)
"""(height, width)."""


@cache
def samples() -> dict[str, tuple[str, bytes]]:
    """The format and the file, by what is special about it."""
    rgb = picture(*SIZE)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    gray, palette = rgb.convert("L"), rgb.quantize(16)
    alpha = rgb.copy()
    alpha.putalpha(gray)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a text"
    deep = np.asarray(gray).astype(np.uint16) * 257
    frames: dict[str, Any] = {"save_all": True, "append_images": [noise, gray.convert("RGB")], "duration": 50}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "compressed " * 40, zip=True)
    text.add_itxt("Title", "in any letters", zip=True)
    profile = bytes(range(256)) * 4
    files: dict[str, tuple[str, bytes]] = {
        "JPEG": ("JPEG", encode(rgb, "JPEG", quality=90)),
        "JPEG, progressive": ("JPEG", encode(noise, "JPEG", progressive=True)),
        "JPEG, gray": ("JPEG", encode(gray, "JPEG")),
        "JPEG, CMYK": ("JPEG", encode(rgb.convert("CMYK"), "JPEG")),
        "JPEG, turned, with a profile": ("JPEG", encode(rgb, "JPEG", exif=exif, icc_profile=profile)),
        "JPEG, with restarts": ("JPEG", encode(noise, "JPEG", restart_marker_blocks=2)),
        "PNG": ("PNG", encode(rgb, "PNG")),
        "PNG, gray": ("PNG", encode(gray, "PNG")),
        "PNG, 1 bit": ("PNG", encode(gray.convert("1"), "PNG")),
        "PNG, palette": ("PNG", encode(palette, "PNG", transparency=3)),
        "PNG, alpha": ("PNG", encode(alpha, "PNG")),
        "PNG, 16 bits": ("PNG", encode(Image.fromarray(deep), "PNG")),
        "PNG, with texts": ("PNG", encode(noise, "PNG", pnginfo=text, icc_profile=profile, exif=exif)),
        "PNG, animated": ("PNG", encode(rgb, "PNG", **frames)),
        "WebP": ("WEBP", encode(rgb, "WEBP", quality=80)),
        "WebP, lossless": ("WEBP", encode(noise, "WEBP", lossless=True)),
        "WebP, alpha, with a profile": ("WEBP", encode(alpha, "WEBP", quality=80, icc_profile=profile, exif=exif)),
        "WebP, animated": ("WEBP", encode(rgb, "WEBP", quality=80, **frames)),
        "BMP": ("BMP", encode(rgb, "BMP")),
        "BMP, palette": ("BMP", encode(palette, "BMP")),
        "BMP, 1 bit": ("BMP", encode(gray.convert("1"), "BMP")),
        "GIF": ("GIF", encode(palette, "GIF")),
        "GIF, animated": ("GIF", encode(palette, "GIF", **(frames | {"append_images": [noise.quantize(16)]}))),
        "AVIF": ("AVIF", encode(rgb, "AVIF")),
        "JPEG 2000": ("JPEG 2000", encode(rgb, "JPEG 2000")),
        "JPEG 2000, bare": ("JPEG 2000", encode(gray, "JPEG 2000", no_jp2=True)),
        "HEIC": ("HEIC", encode(rgb, "HEIC")),
    }
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        files[f"TIFF, {compression}"] = "TIFF", encode(rgb, "TIFF", compression=compression)
    files["TIFF, 1 bit, group 4"] = "TIFF", encode(gray.convert("1"), "TIFF", compression="group4")
    files["TIFF, palette"] = "TIFF", encode(palette, "TIFF", compression="tiff_lzw")
    for name, values, options in (
        ("16 bits", deep, {}),
        ("floats, predictor", deep.astype(np.float32) / 65535, {"compression": "zlib", "predictor": True}),
        ("tiles", np.asarray(noise), {"tile": (16, 16), "compression": "zlib", "photometric": "rgb"}),
        ("planar", np.moveaxis(np.asarray(rgb), 2, 0), {"planarconfig": "separate", "photometric": "rgb"}),
        ("big", deep, {"bigtiff": True, "rowsperstrip": 5}),
        ("big-endian", deep, {"byteorder": ">"}),
        ("OME", np.stack([deep, deep[::-1]]), {"ome": True, "metadata": {"axes": "ZYX"}}),
        ("ImageJ", np.stack([deep, deep[::-1]]), {"imagej": True, "metadata": {"axes": "ZYX"}}),
        ("pages", np.stack([deep, deep[::-1]]), {"metadata": None}),
    ):
        buffer = BytesIO()
        tifffile.imwrite(buffer, values, **options)
        files[f"TIFF, {name}"] = "TIFF", buffer.getvalue()
    return files
