"""Engines run a bundle's network: one small interface, ONNX Runtime behind it by default, TorchScript on request."""
