"""The network as one whole-batch graph, dynamic and with fixed shapes."""
