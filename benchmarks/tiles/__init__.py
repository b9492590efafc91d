"""Large pictures: what is found in their tiles, and how fast and in how much memory a server finds it."""
