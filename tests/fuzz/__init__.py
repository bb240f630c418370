"""Fuzz: arbitrary bytes at both ways in, MQTT and HTTP."""
