"""COCO: where it lies, reading and writing it."""
