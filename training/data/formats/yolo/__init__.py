"""YOLO: what lies where, and the lines of its text files."""
