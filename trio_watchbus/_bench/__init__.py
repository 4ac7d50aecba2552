"""Measures what a bus or a served bus does on this machine: ``watchbus bench``."""
