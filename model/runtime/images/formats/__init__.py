"""Each format beyond what Pillow makes of it, so that the pixels are those that viewers show."""
