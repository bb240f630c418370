"""Alerts: judged, kept until they are published, and published."""
