"""Compiled loops over masks and keypoints: pasting, RLE, polygons."""
