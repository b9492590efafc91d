"""Other servers around the same network, and what the service is compared with."""
