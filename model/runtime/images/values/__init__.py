"""How a picture's values, of any depth, become the 8 bits that a network takes."""
