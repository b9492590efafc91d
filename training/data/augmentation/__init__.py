"""Random changes of an image and of all that is annotated on it."""
