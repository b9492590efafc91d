"""Versions come and go: loading, catalog, reloading and retiring."""
