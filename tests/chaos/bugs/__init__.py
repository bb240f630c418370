"""Bridges with deliberate bugs, to be run in a bridge's place: the auditor must catch each."""
