"""Formats whose objects are pixels of one value: Cityscapes, VOC, CVAT's masks, PNGs of instances and of objects."""
