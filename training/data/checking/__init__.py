"""What is wrong with a dataset or worth knowing of it, before anything is trained on it."""
