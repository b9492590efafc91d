"""The Open Inference Protocol v2: its endpoints and tensors, and what Triton's clients ask for besides."""
