"""What can be wrong with a bundle. Each message says which bundle, what is wrong with it and what to do."""

from __future__ import annotations


class BundleError(Exception):
    """A bundle that cannot be read or written."""


class MissingManifest(BundleError):
    """The folder is no bundle: it does not exist or has no manifest."""


class InvalidManifest(BundleError):
    """The manifest is no JSON, or lacks or contradicts something."""


class NewerFormat(BundleError):
    """The manifest was written by a newer release."""


class MissingFile(BundleError):
    """A file that the manifest names is not there."""


class DamagedFile(BundleError):
    """A file is not the one that was published: cut short, or changed."""


class ForeignNetwork(BundleError):
    """A network that is not complete in its file, or asks for operators that no engine here brings along."""


class Untrusted(BundleError):
    """Signatures are asked for, and the bundle has none, one of another key, or one that does not fit."""


class PublishError(BundleError):
    """What was to be published cannot be: a bad name, or files that make no bundle."""
