"""Detections of a dataset and their figures: COCO's AP, operating points, tables and the report."""
