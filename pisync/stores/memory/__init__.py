"""The stores in memory, for unit tests and for trying things out."""
