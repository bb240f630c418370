"""Replaying what a file holds: reading it, its mapping, its times, sending it, and how far that is."""
