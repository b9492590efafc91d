"""Models on disk: the bundle, its manifest, the repository of versions."""
