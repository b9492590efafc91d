"""LabelMe's JSON files, and the images that they name or carry."""
