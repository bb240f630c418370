"""The HTTP layer: sync events in, history and repeated failures out."""
