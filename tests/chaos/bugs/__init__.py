"""Deliberate bugs for `tests.chaos.bridge`, each made by importing its module: a run must catch each."""
