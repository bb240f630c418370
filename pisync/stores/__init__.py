"""The two stores behind interfaces: events in MongoDB (the truth), streaks in Redis (the projection)."""
