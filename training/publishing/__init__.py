"""From a trained network to a bundle: export, gate, trades of accuracy for speed, provenance."""
