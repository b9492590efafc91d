"""Every figure of the documents is a command here."""
