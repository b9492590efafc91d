"""One file for each dataset format, and the list of them."""
