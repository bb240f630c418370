"""The bridge: MQTT in, MongoDB and Redis out, receipts back."""
