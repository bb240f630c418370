"""The catch-up over several Redis processes as a model: two shards that restart, go back or fail over apart.

The model beside it has one shard, whose commands are one step each. Here a command goes to both shards and is
executed in each at another moment, in either order; one of the two may have lost what it was given, or be
another process by then, while the other has not. That, and how a rebuild begins, is all there is: alerts
belong to a device and so to one shard, and clocks and clean stops to no shard at all.

A shard of the model stands for all those of one Redis process. The first holds more than half of them.
"""
