"""The worker: computes what is derived from events, one worker at a time for each duty."""
