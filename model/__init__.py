"""What a Mask R-CNN is: no web, no training loop."""
