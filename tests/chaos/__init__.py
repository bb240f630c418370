"""Chaos: the whole stack under faults, and an auditor that says whether anything was lost or doubled."""
