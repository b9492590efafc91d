"""The HTTP service: images in, detections out. `python -m service` runs it."""

VERSION = "0.1.0"
