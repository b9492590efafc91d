"""What a run starts from: weights of a file, a bundle or torchvision, and which tensors are taken over."""
