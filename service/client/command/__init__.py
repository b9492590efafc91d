"""The command `maskserve predict`: files and folders in, a format or drawings out."""
