"""Alerts: judged by rules, kept in MongoDB until they are published, and published by a sink."""
