"""The `pisync` command."""
