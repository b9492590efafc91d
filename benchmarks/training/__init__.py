"""A training step beside a loop as torchvision writes it; `python -m benchmarks.training`."""
