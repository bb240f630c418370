"""What people write instead: two bridges on paho-mqtt, complete and as good as their design lets them be.

Both speak MQTT 5 with a persistent session in the same shared subscription, validate every event, store it
with majority and journal in a collection with the same indexes, keep a failure streak in Redis, and
acknowledge a message only after all of that. Neither has receipts, dead letters or a projection that can be
rebuilt.
"""
