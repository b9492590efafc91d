"""The graph as files: ONNX, TorchScript, INT8."""
