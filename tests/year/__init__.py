"""A year of a fleet, loaded into a real stack, whose answers an auditor compares with a count of its own."""
