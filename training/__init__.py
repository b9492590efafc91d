"""Data in, bundle out. The commands are the modules here; what they are made of lives in the rooms."""
