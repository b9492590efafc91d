"""What the tests of the page share: an image, what the server says of it, and ways to hand it over."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco_mask

from model.runtime.bundles.repository import EMBEDDED
from tests.service.harness import Server, encode, picture
from tests.service.page.visitor import Visitor

IMAGE = encode(picture(3, (96, 128)))
SAMPLES = EMBEDDED.parent / "samples" / "nuclei"
DEFAULT = 0.3
"""The probe's score threshold."""

SIZES = {"wide": (1400, 900), "narrow": (375, 812)}
SCHEMES = ("light", "dark")


def answer(server: Server, image: bytes = IMAGE, **parameters: Any) -> dict[str, Any]:
    response = server.predict(image, **parameters)
    assert response.status_code == 200, response.text
    return dict(response.json())


def words(count: int) -> str:
    return f"{count} object" + ("" if count == 1 else "s")


def covered(masks: list[dict[str, Any]]) -> int:
    """Pixels under any of the masks, by pycocotools."""
    return int(coco_mask.area(coco_mask.merge([{**mask, "counts": mask["counts"].encode()} for mask in masks])))


def drop(visitor: Visitor, name: str, content: bytes) -> None:
    transfer = visitor.page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            return transfer;
        }""",
        [name, list(content)],
    )
    for event in ("dragover", "drop"):
        visitor["body"].dispatch_event(event, {"dataTransfer": transfer})


def paste(visitor: Visitor, content: bytes) -> None:
    visitor.page.evaluate(
        """(bytes) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
        }""",
        list(content),
    )


def point_at(visitor: Visitor, x: float, y: float, *, click: bool = False) -> None:
    """Move the mouse to a place in the picture, in shares of its width and height."""
    box = visitor["#picture"].bounding_box()
    assert box is not None
    place = box["x"] + x * box["width"], box["y"] + y * box["height"]
    (visitor.page.mouse.click if click else visitor.page.mouse.move)(*place)
