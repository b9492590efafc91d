"""Who computes when: admission, queues, batches, threads and their priorities."""
