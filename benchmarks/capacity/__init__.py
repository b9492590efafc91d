"""How many replicas a load needs: the service's own gate, pools and batcher in virtual time."""
