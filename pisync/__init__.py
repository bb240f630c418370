"""The shared domain: events, topics, streaks, stores, settings, the command line, the local stack."""
