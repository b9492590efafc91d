"""One image's way from upload to answer, and the life of the server that every route shares."""
