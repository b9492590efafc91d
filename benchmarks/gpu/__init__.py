"""What a GPU gives; `python -m benchmarks.gpu`."""
