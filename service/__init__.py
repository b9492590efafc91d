"""The HTTP service: images in, detections out. `maskserve serve` runs it."""

VERSION = "0.1.0"
