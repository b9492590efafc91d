"""The network in torch: torchvision's modules, the whole-batch graph, its export. Needs torch."""
