"""Every limit of the system, with its unit. Those an operator may change are settings and start from here."""

from typing import Final

# One MQTT message, as the device protocol promises it (docs/protocol.md).
MESSAGE_BYTES_MAX: Final = 256 * 1024
MESSAGE_EVENTS_MAX: Final = 500

# What the broker lets through. It is larger than a message may be, so that an oversized one reaches
# dead_letters instead of ending the device's connection; mosquitto/limits.conf holds the same number.
BROKER_PACKET_BYTES_MAX: Final = 1024 * 1024
# What the bridge announces to the broker. A broker silently drops what exceeds it, so it leaves room
# for the topic that a topic alias stood for (MQTT 5, 3.1.2.11.4: at most 65,535 bytes) and properties.
BRIDGE_PACKET_BYTES_MAX: Final = BROKER_PACKET_BYTES_MAX + 256 * 1024

# The largest integer that every JSON implementation carries exactly (RFC 7493, section 2.2).
COUNT_MAX: Final = 2**53 - 1

# A device clock: a Pi has no battery behind it, and starts at 1970 or at its image's build date.
CLOCK_AHEAD_MS_MAX: Final = 10 * 60 * 1000
CLOCK_EARLIEST_MS: Final = 1_420_070_400_000  # 2015-01-01T00:00:00Z

DETAIL_CHARS_MAX: Final = 300

# The projection.
SHARDS: Final = 16
FAILURES_KEPT_MAX: Final = 1000
STREAK_ALERT: Final = 3
# How often a bridge writes down how far its events are projected.
WATERMARK_INTERVAL_S: Final = 1.0
# How often a bridge compares all alerts with all streaks, should one have been missed.
RECONCILE_INTERVAL_S: Final = 60.0
# After how long without a sign a bridge that was catching up, or rebuilding, counts as dead.
REBUILDER_SILENT_S: Final = 30
REPLAY_BATCH_EVENTS: Final = 2000
# Alerts that are opened and closed in one write, and those that wait for it; a comparison finds the others.
ALERTS_BATCH: Final = 200
ALERTS_WAITING_MAX: Final = 100_000
# How often a bridge looks for alerts that another one left unpublished, and how many it publishes at once.
ALERTS_PUBLISH_INTERVAL_S: Final = 10.0
ALERTS_PUBLISH_BATCH: Final = 100
# How long ago an alert that a broker may have brought back from a snapshot can have been closed.
ALERTS_PUBLISH_AGAIN_H: Final = 24
# A bridge that leaves waits so long for what the broker still holds for it, after the last message.
LEAVE_QUIET_S: Final = 2.0

# The bridge's pipeline.
BATCH_EVENTS_MAX: Final = 2000
BATCH_BYTES_MAX: Final = 1024 * 1024
BATCHES_INFLIGHT_MAX: Final = 4
LINGER_MS: Final = 2
INFLIGHT_MESSAGES_MAX: Final = 10_000
INFLIGHT_BYTES_MAX: Final = 64 * 1024 * 1024
DRAIN_TIMEOUT_S: Final = 20.0
# Objects that may be made before Python looks for reference cycles among them, and how many such looks
# before it looks at older ones.
GC_THRESHOLDS: Final = (100_000, 20, 20)

# Topics whose device id need not be looked for again: about those of a batch's senders, not of all devices.
TOPICS_REMEMBERED: Final = 4096

# The bridge's MQTT session.
KEEP_ALIVE_S: Final = 30
CONNECT_TIMEOUT_S: Final = 10.0
RECEIVE_MAXIMUM: Final = 4096
SESSION_EXPIRY_S: Final = 30 * 24 * 3600
RECEIPT_EXPIRY_S: Final = 24 * 3600

# The bridge's metrics endpoint: what one request may be, how long it may take, and how many at once.
METRICS_REQUEST_BYTES_MAX: Final = 8 * 1024
METRICS_REQUEST_TIMEOUT_S: Final = 5.0
METRICS_CONNECTIONS_MAX: Final = 16

# Retry with full jitter: uniform(0, min(cap, base * 2^attempt)).
BACKOFF_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 10.0

# The connections to the stores: how long looking for a server, an answer, and a goodbye may take.
MONGODB_CONNECT_TIMEOUT_MS: Final = 5000
MONGODB_SOCKET_TIMEOUT_MS: Final = 20_000
MONGODB_CLOSE_TIMEOUT_S: Final = 1.0
REDIS_SOCKET_TIMEOUT_S: Final = 5.0

# The HTTP layer.
PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1000
# Faulty parameters that one answer names, and how much of a name it repeats.
PARAMETER_FAULTS_MAX: Final = 20
PARAMETER_NAME_CHARS_MAX: Final = 100
RECEIPT_TIMEOUT_S: Final = 5.0
HTTP_BODY_BYTES_MAX: Final = MESSAGE_BYTES_MAX
# What the broker may leave untaken before a POST is refused, in bytes.
UNSENT_BYTES_MAX: Final = 16 * 1024 * 1024
# POSTs that wait for a receipt at once. Each holds its body, so this bounds memory: 256 times 256 KiB.
WAITING_MAX: Final = 256
# Connections at once, and from one address that is no trusted proxy's; those that wait give way, and beyond
# it a request is answered 503, but for probes. Below the usual limit of 1,024 open files.
HTTP_CONNECTIONS_MAX: Final = 900
HTTP_CONNECTIONS_OF_ADDRESS_MAX: Final = 256
# A request's line and headers, and how long its head, and then its body, may take to come in.
HTTP_HEAD_BYTES_MAX: Final = 64 * 1024
HTTP_DEADLINE_S: Final = 10.0
# Requests of one connection that wait for the answer before theirs; beyond it the connection is not read.
HTTP_PIPELINED_MAX: Final = 16
# What a client has to take of an answer in each HTTP_DEADLINE_S, and what all clients may leave unread.
HTTP_READ_BYTES_MIN: Final = 16 * 1024
HTTP_UNREAD_BYTES_MAX: Final = 64 * 1024 * 1024
# How long a refused connection is left open, so that the client can read why.
HTTP_LINGER_S: Final = 2.0
# What a client is told to wait after a 503, in seconds.
RETRY_AFTER_S: Final = 5
# How long /readyz waits for each part, in seconds.
READY_PING_S: Final = 2.0
# After how long without a heartbeat /readyz calls a bridge silent; how long it remembers a refused publish.
BRIDGE_SILENT_S: Final = 15.0
REFUSAL_REMEMBERED_S: Final = 15.0
# Exact failure counts that one page asks of MongoDB at once.
EXACT_COUNTS_INFLIGHT_MAX: Final = 16
# Beyond the time that a POST may wait for its receipt: what a stop leaves for writing answers, in seconds.
STOP_MARGIN_S: Final = 3
# After how long a background task that should end is cancelled again, in seconds.
CANCEL_AGAIN_S: Final = 0.5
