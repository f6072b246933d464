"""Argument parsing and printing."""
