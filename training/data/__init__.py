"""Annotated images, from a folder to samples. The commands are the modules here."""
