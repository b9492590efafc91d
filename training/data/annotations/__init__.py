"""What an annotated image is, whatever file it came from."""
