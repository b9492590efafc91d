"""A run's data: found or generated, as samples in batches."""
