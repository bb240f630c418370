"""Scenarios: what whole fleets go through, made up from a seed."""
