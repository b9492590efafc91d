"""TIFF: which of a file's directories is the picture, and its samples whatever their layout, depth and compression."""
