"""The command `maskserve`, and what the arguments of all commands have in common. Imports nothing of the others."""
