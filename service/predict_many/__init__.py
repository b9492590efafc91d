"""The command `maskserve predict-many`: a folder, a list or a bucket through the service's pipeline, without HTTP."""
