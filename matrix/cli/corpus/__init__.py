"""The commands of `matrix corpus`."""
