"""MQTT 5: the broker's address, TLS, one connection, and a client that keeps one."""
