"""The projection in Redis. Nothing else in PiSync speaks to Redis."""
