"""The bridge's protocol as a model small enough that every interleaving of its steps can be tried.

`state` says what there is, `protocol` what can happen, `invariants` what must hold, and `explore` searches
every state breadth-first. `python -m tests.model --help` searches within larger bounds than the tests do.

There is one shard, whose commands are one step each; `shards` is another model, of two that are lost apart.

Beyond the model: several devices (they do not meet), conflicts and dead letters, a bridge that
never comes back, and a write of a killed bridge that lands after the bridge has started again; that a bridge
which is stuck keeps alerts silent for some minutes only, which costs looks into MongoDB and no alert, for
that judges them; and that one is forgotten, which is a replay from its watermark. Redis goes back, each
time, to any state that it had since it last went back.
"""
