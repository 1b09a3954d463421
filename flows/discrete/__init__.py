"""Flows made of finitely many layers, one system a file."""
