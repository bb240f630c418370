"""Where alerts are published."""
