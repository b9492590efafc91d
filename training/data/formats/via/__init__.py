"""VGG Image Annotator: the files that its versions write."""
