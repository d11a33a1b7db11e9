"""Prove, cell by cell, what survives saving, loading and converting."""
