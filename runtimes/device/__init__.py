"""The machine: cores, memory, energy, what is installed."""
