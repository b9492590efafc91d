"""The wire, without a model: connections, headers, bodies, keys, and errors as the client sees them."""
