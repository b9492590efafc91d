"""From an image to detections without torch: bundles, preprocessing, engines, masks."""
