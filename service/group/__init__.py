"""Several service processes behind one port: a parent that supervises, and members that serve."""
