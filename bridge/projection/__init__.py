"""Keeps the projection in Redis in step with MongoDB."""
