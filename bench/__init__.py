"""Measurements of PiSync, each next to what bounds it: `python -m bench`, or `make bench`."""
