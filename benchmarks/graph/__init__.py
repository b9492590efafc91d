"""The network from pixels to RLE beside torchvision; `python -m benchmarks.graph`."""
