"""Calls to bakrypt."""
