"""The kinds of messages that the bridge takes in, a module for each."""
