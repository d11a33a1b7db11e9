"""The commands of `matrix peers`."""
