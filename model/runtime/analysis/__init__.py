"""What was found in an image, measured and written as programs for image analysis open it."""
