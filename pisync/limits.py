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

# What is kept of an event's `errors`: entries, and bytes of each text; the rest is cut off, and marked.
ERRORS_KEPT_MAX: Final = 50
ERROR_TEXT_BYTES_MAX: Final = 2 * 1024
# A stored event of up to so many bytes is read whole; the errors of a larger one are fetched apart, so that a
# read is bounded by bytes. Stored events that repetitions are compared with at once, and bytes of large ones.
EVENT_BYTES_AT_ONCE: Final = 4 * 1024
COMPARED_AT_ONCE: Final = 500
COMPARED_BYTES_MAX: Final = 4 * 1024 * 1024
# Stored events that one statement enriches with members that they lack.
ENRICHED_AT_ONCE: Final = 50
# A batch of so many events, or dead letters, is looked for before it is inserted where at least this share of
# each of the two before it was stored already: not to find one costs a third of an insert, to insert one that
# is there as much as five inserts.
LOOKED_FOR_MIN: Final = 10
LOOKED_FOR_SHARE: Final = 0.25

# Parts of the key space by device, by which a cluster may be split: every event has one in its key, so that
# another number is another key (`pisync migrate`).
BUCKETS: Final = 64
# A device's events are looked for day by day: so many days at first, then each time so many times as many, up
# to what one command may ask for. Of how many devices it is kept how many events a day they had.
DAYS_AT_FIRST: Final = 8
DAYS_GROWTH: Final = 8
DAYS_AT_ONCE_MAX: Final = 512
DENSITIES_KEPT_MAX: Final = 10_000
# To confirm an alert, of many devices at once: most have failed within a day or two.
ALERT_DAYS_AT_FIRST: Final = 2

# `pisync migrate`: events that are moved at once, and for how long it looks whether bridges run, which raise
# their floors meanwhile.
MIGRATION_BATCH_EVENTS: Final = 1000
MIGRATION_LOOK_S: Final = 5.0

# A device clock: a Pi has no battery behind it, and starts at 1970 or at its image's build date.
CLOCK_AHEAD_MS_MAX: Final = 10 * 60 * 1000
CLOCK_EARLIEST_MS: Final = 1_420_070_400_000  # 2015-01-01T00:00:00Z
# The projection counts days since 1970 in 16 bits.
PROJECTED_BEFORE_MS: Final = 2**16 * 86_400_000  # 2149-06-07T00:00:00Z

# How far a bridge's clock and MongoDB's may be apart before the bridge takes nothing in; how often it looks.
# Well below what a device may be ahead, so that no good event is rejected before the bridge knows.
CLOCK_DIFFERENCE_S_MAX: Final = 120.0
CLOCK_CHECK_INTERVAL_S: Final = 10.0
# By how much this machine's two clocks may disagree on the time since MongoDB's was asked before it is again.
SERVER_CLOCK_DOUBT_S: Final = 1.0

DETAIL_CHARS_MAX: Final = 300
# Elements of one message that are too short for an event, and whose fault is named all the same.
SHORT_ELEMENTS_NAMED_MAX: Final = 5

# A dead letter holds the rejected events of its message one by one up to so many, and beyond it the message
# itself; of one that is larger than a message may be, the beginning.
DEAD_LETTER_PARTS_MAX: Final = 20
DEAD_LETTER_HEAD_BYTES: Final = 16 * 1024
# About what a letter, and each part of one, takes beside its topic, details and bytes.
DEAD_LETTER_BYTES_BESIDE: Final = 256
DEAD_LETTER_PART_BYTES: Final = 64
# What is kept for one device, and for all topics together that name none; beyond it the oldest letters give
# way. It is looked at after so many new letters of a device, or so many bytes.
DEVICE_DEAD_LETTERS_MAX: Final = 1000
DEVICE_DEAD_LETTER_BYTES_MAX: Final = 16 * 1024 * 1024
DEVICE_DEAD_LETTERS_UNCHECKED: Final = 100
DEVICE_DEAD_LETTER_BYTES_UNCHECKED: Final = 1024 * 1024
# Devices whose count of new letters a bridge remembers; one that it forgot may be looked at early.
DEAD_LETTER_DEVICES_REMEMBERED: Final = 4096
# Letters in one write, about, in bytes; letters that one purge deletes; devices that are listed
# because letters of theirs gave way.
DEAD_LETTER_WRITE_BYTES_MAX: Final = 2 * 1024 * 1024
PURGE_MAX: Final = 10_000
# Of one replay of many: letters, those that are sent at once, how long another part of them is begun, in
# seconds, and letters of which it says why nothing was taken in.
REPLAY_LETTERS_MAX: Final = 500
REPLAYS_AT_ONCE: Final = 8
REPLAY_S_MAX: Final = 20.0
REPLAY_FAULTS_TOLD_MAX: Final = 20
# Letters that are counted of one reason; more than that is "so many or more".
DEAD_LETTERS_COUNTED_MAX: Final = 1000
DROPS_LISTED_MAX: Final = 20

# The projection.
SHARDS: Final = 16
FAILURES_KEPT_MAX: Final = 1000
# How many more a device may have in Redis before the oldest are removed, which costs a copy of all. The sum
# times eight bytes, and a header, just fit in a block of 8,192 bytes, as Redis's allocator has it.
FAILURES_SLACK: Final = 20
# Days of which the projection knows whether a device succeeded, failed or was heard of: bits of a word.
DAYS_KEPT: Final = 64
# Days that the gaps from which a device's habit is learned must last together: two weekends are in them.
HABIT_KNOWN_DAYS_MIN: Final = 14
# How far back the silence of a device is looked at; who was not silent for long enough since then never was.
SILENCE_DAYS_BACK: Final = 400
# A site's calendar, and the name of a time zone.
HOLIDAYS_MAX: Final = 200
TIME_ZONE_CHARS_MAX: Final = 64
# How much later than its own time an event is received that counts as late. On how many days a device may be
# heard, none of which brought an event of the day before or later, until its clock is suspect.
LATE_S: Final = 24 * 3600
CLOCK_SUSPECT_DAYS: Final = 3
# What is kept of the code of a device's newest failure.
ERROR_CODE_CHARS_MAX: Final = 40
# How far the rollups may be behind while the last that they know is told as the last that there was.
ROLLUPS_LATE_S_MAX: Final = 3600.0
# Days that are told one by one of a cause and of a site's devices; points of a curve that one answer has, and
# gaps in which no bridge listened, the newest.
DAYS_TOLD: Final = 28
# After so many days without a failure a code that comes again is back; and so long it is called that.
BACK_AFTER_DAYS: Final = 7
STATS_POINTS_MAX: Final = 2000
# The events of a site by day: of how many devices they are counted, and how many days back, of which the
# projection knows all on which a device has events (one less, for a clock that is ahead). How many devices
# and days one command counts; of how many devices the api keeps what it counted, and for how long.
ACTIVITY_DEVICES_MAX: Final = 500
ACTIVITY_DAYS_MAX: Final = DAYS_KEPT - 1
DEVICE_DAYS_AT_ONCE: Final = 500
ACTIVITY_DEVICES_KEPT_MAX: Final = 2000
ACTIVITY_KEPT_S: Final = 60.0
GAPS_TOLD_MAX: Final = 1000
# After how long without progress health calls the rollups late, in seconds.
ROLLUPS_HEALTHY_S_MAX: Final = 60.0
# How many days the last one is compared with to tell whether a cause spreads.
TREND_DAYS_BEFORE: Final = 7
# Of the messages of a cause: how much of one is told, how many different ones, of how many devices.
SAMPLE_CHARS_MAX: Final = 300
SAMPLES_MAX: Final = 5
SAMPLED_DEVICES_MAX: Final = 20
# Devices whose changes one read takes, so that neither Redis nor who reads is busy for long.
CHANGES_AT_ONCE: Final = 2000
# Devices that one call of the script merges: others wait for about a millisecond.
MERGED_AT_ONCE: Final = 50
STREAK_ALERT: Final = 3
# How often a bridge writes down how far its events are projected.
WATERMARK_INTERVAL_S: Final = 1.0
# How often a bridge raises its floor in MongoDB, beyond which no watermark goes; by how much the floor may be
# ahead of the clock at a start before that is told.
FLOOR_INTERVAL_S: Final = 2.0
FLOOR_AHEAD_TOLD_S: Final = 1.0
# For how long a bridge may write nothing down of its listening before that is a gap: some intervals of the
# floor, and a restart. How many of the bridges' intervals of listening are read at once, the newest first.
LISTENING_GAP_MIN_S: Final = 10.0
LISTENING_INTERVALS_MAX: Final = 10_000
# How far behind Redis's clock the merged events of a bridge may be while the projection counts as complete,
# and how old the list of the bridges may be. Some watermark intervals, or a busy second makes it incomplete.
PROJECTION_YOUNG_S: Final = 4.0
# How often the api reads which bridges there are.
KNOWN_BRIDGES_INTERVAL_S: Final = 1.0
# The worker: how long a lease lasts, how often its holder renews it and others look whether it is free; how
# long before its end a holder that could not renew it stops.
LEASE_S: Final = 15.0
LEASE_INTERVAL_S: Final = 5.0
LEASE_MARGIN_S: Final = 2.0
# Rollups: codes in one; how late an event is received (to a minute, an hour, a day, a week), and so many of
# these bounds are in time; how fast its line was; how many rollups one read gives.
ROLLUP_CODES_MAX: Final = 200
LATENESS_MS: Final = (60_000, 3_600_000, 86_400_000, 7 * 86_400_000)
IN_TIME_BOUNDS: Final = 2
SPEEDS_MBIT: Final = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)
ROLLUPS_READ_MAX: Final = 10_000
# Codes of a minute that is being counted: beyond it the rarest are told apart no more.
ROLLUP_CODES_COUNTED_MAX: Final = 20_000
# How often the newest events are counted, how many of them by one command, and how much of its time a worker
# spends on old ones: what it counts again, and what was there before it.
ROLLUP_INTERVAL_S: Final = 5.0
ROLLUP_EVENTS_AT_ONCE: Final = 50_000
ROLLUP_OLD_SHARE: Final = 0.25
# Where it takes longer than that interval to count the newest, so much of that time again is for old ones.
ROLLUP_FILL_SHARE: Final = 0.5
# How long after its floor was raised a bridge is waited for; where none is there, events are counted so long
# after they were received.
ROLLUP_BRIDGE_SILENT_S: Final = 60.0
ROLLUP_DELAY_S: Final = 5.0
# A minute is closed so long after its end at the earliest: the clock of a new bridge may be that far behind.
ROLLUP_CLOSE_AFTER_S: Final = CLOCK_DIFFERENCE_S_MAX + 60.0
# So long after that its events are counted again: what a killed bridge had sent may still have been stored.
ROLLUP_CONFIRM_AFTER_S: Final = 3600.0
# A worker that comes back after longer begins with what is received now.
ROLLUP_RESUME_S: Final = 600.0
# Retention: for how many days events may be kept; how many are deleted at once, and of how many devices what
# they came to is merged at once; how much of its time a worker spends on that; how often it looks for more,
# and how often while it waits until what is old is counted.
RETENTION_DAYS_MIN: Final = 1
RETENTION_DAYS_MAX: Final = 36_500
RETENTION_EVENTS_AT_ONCE: Final = 5_000
RETENTION_DEVICES_AT_ONCE: Final = 500
RETENTION_SHARE: Final = 0.25
RETENTION_INTERVAL_S: Final = 60.0
RETENTION_WAIT_S: Final = 5.0
# A clock that went on by more than this since a worker last looked is doubted for so long.
RETENTION_JUMP_S: Final = 3 * 86_400.0
RETENTION_DOUBT_S: Final = 86_400.0
# Devices' bases that MongoDB sends at once; one may have 9 kB.
BASES_AT_ONCE: Final = 1_000
# How often a worker says in the log how far it is with old events.
ROLLUP_TOLD_INTERVAL_S: Final = 10.0
# Commands: after how long one expires, at least, at most, and where nobody says so; devices that one request
# may name; commands that are stored at once, and how often a change is tried that others make, too.
COMMAND_EXPIRY_S_MIN: Final = 60
COMMAND_EXPIRY_S_MAX: Final = 30 * 86_400
COMMAND_EXPIRY: Final = "1d"
COMMAND_DEVICES_MAX: Final = 10_000
COMMANDS_WRITTEN_AT_ONCE: Final = 500
COMMAND_CHANGE_TRIES: Final = 10
# Commands that are counted of one state; more than that is "so many or more".
COMMANDS_COUNTED_MAX: Final = 10_000
# Devices that nobody knows, which an answer names.
COMMAND_DEVICES_TOLD_MAX: Final = 20
# How often a worker looks, and how many commands it publishes then; so many under way in all, beyond which
# others wait, and so many at one site, of which one that is not answered counts for so long: the device is
# away, and does not load the site's line.
COMMAND_INTERVAL_S: Final = 1.0
# How many times as long as it took to find them a worker pauses, and for how long at most.
COMMAND_PAUSES: Final = 10
COMMAND_INTERVAL_S_MAX: Final = 10.0
COMMANDS_PUBLISHED_AT_ONCE: Final = 50
COMMANDS_INFLIGHT_MAX: Final = 100_000
COMMANDS_OF_SITE_MAX: Final = 5
COMMAND_OF_SITE_S: Final = 600.0
# Rounds in which one look finds commands past sites that are full.
COMMAND_ROUNDS_MAX: Final = 10
# After how long a command is published again where nobody wrote down that the broker took it; where that was
# written down, and the device has not answered, doubled each time.
COMMAND_UNSENT_S: Final = 30.0
COMMAND_AGAIN_S: Final = 3600.0
COMMAND_AGAIN_S_MAX: Final = 6 * 3600.0
# How long after its expiry the proof is waited for of a command that was published, or accepted; by how much
# longer while the projection is not complete. How many commands under way are looked at at once, and for how
# many moments of receipt their proofs are read.
COMMAND_PROOF_S: Final = 60.0
COMMAND_ACCEPTED_PROOF_S: Final = 3600.0
COMMAND_INCOMPLETE_S: Final = 3600.0
COMMANDS_LOOKED_AT: Final = 1000
COMMAND_PROOFS_AT_ONCE: Final = 100
# Bytes of a command, or of a reply, as a payload; replies that wait to be written down, and those written at
# once; how long the broker keeps them while there is no worker.
COMMAND_BYTES_MAX: Final = 4 * 1024
COMMAND_REPLIES_WAITING_MAX: Final = 2000
COMMAND_REPLIES_AT_ONCE: Final = 500
COMMAND_REPLIES_SESSION_S: Final = 24 * 3600
# Presence: bytes of a status, characters of a firmware that are kept; messages that wait to be written down,
# and those written at once; after how long the same is written again, and without it forgotten.
STATUS_BYTES_MAX: Final = 4 * 1024
FIRMWARE_CHARS_MAX: Final = 64
STATUSES_WAITING_MAX: Final = 5000
STATUSES_AT_ONCE: Final = 500
PRESENCE_WRITTEN_S: Final = 86_400
PRESENCE_EXPIRY_S: Final = 60 * 86_400
# How often a worker writes down what the broker says of itself; how long ago that was written, and how long
# ago the broker had said it, for it to be told as of now. The broker says it every 10 s.
BROKER_WRITTEN_INTERVAL_S: Final = 5.0
BROKER_TOLD_S_MAX: Final = 30.0
# How often a bridge compares all alerts with all streaks, should one have been missed.
RECONCILE_INTERVAL_S: Final = 60.0
# The slow comparison of the whole projection with MongoDB: how often at most, how many times as long as it
# took a bridge pauses before the next, how fast it reads, and how many repaired devices a log line names.
COMPARE_INTERVAL_S: Final = 60.0
COMPARE_PAUSES: Final = 10
COMPARE_EVENTS_PER_S: Final = 10_000
COMPARE_NAMED_MAX: Final = 5
# Devices whose records are read at once for a comparison.
COMPARED_DEVICES_AT_ONCE: Final = 1000
# After how long without a sign a bridge that was catching up, or rebuilding, counts as dead.
REBUILDER_SILENT_S: Final = 30
# Events of a replay that MongoDB gives in one reply, and those that are worked on before live traffic has its
# turn.
REPLAY_BATCH_EVENTS: Final = 2000
REPLAY_EVENTS_AT_ONCE: Final = 250
# At how many places, and at how many events, a replay looks whether those that came one after another lie so
# on disk; how many documents may lie between two that do (about two pages), and after how many others.
REPLAY_PLACES_LOOKED_AT: Final = 8
REPLAY_PLACE_EVENTS: Final = 64
REPLAY_NEAR_RECORDS: Final = 1000
REPLAY_NEAR_BEFORE: Final = 16
# Of how many bytes of events, compressed, a replay gives those of the bucket that has most of them: some
# 1,200,000; and the slow comparison, which reads the more evenly, the fewer it holds: some 150,000.
REPLAY_GROUPED_BYTES_MAX: Final = 32 * 1024 * 1024
COMPARE_GROUPED_BYTES_MAX: Final = 4 * 1024 * 1024
# Of how many bytes of accumulated states, about, a replay merges them though their bucket has not ended: some
# 200,000 events of 10,000 devices. Devices that it gives Redis at once.
REPLAY_HELD_BYTES_MAX: Final = 48 * 1024 * 1024
REPLAY_MERGED_AT_ONCE: Final = 100
# How long MongoDB may count the events of a replay, which nobody waits for.
COUNT_TIMEOUT_MS: Final = 10_000
# For how long a rebuild or a catch-up may keep all alerts silent: one that is stuck must not do it for ever.
QUIET_S_MAX: Final = 600
# Alerts that are opened and closed in one write, and those that wait for it; a comparison finds the others.
ALERTS_BATCH: Final = 200
ALERTS_WAITING_MAX: Final = 100_000
# How long a bridge that has opened or closed alerts waits before it does so again: those of a morning, when
# many devices come back, so share the commands.
ALERTS_PAUSE_S: Final = 0.5
# How often a worker looks who is overdue, and how often it reads anew who has an open alert for that; for how
# long all bridges must have listened before one is opened: what the broker held for them has come in then.
OVERDUE_INTERVAL_S: Final = 30.0
OVERDUE_REREAD_S: Final = 600.0
OVERDUE_LISTENED_S: Final = 900.0
# Devices that one log line about all that are opened or closed names.
OVERDUE_NAMED_MAX: Final = 5
# How often a bridge looks for alerts that another one left unpublished, and how many it publishes at once.
ALERTS_PUBLISH_INTERVAL_S: Final = 10.0
ALERTS_PUBLISH_BATCH: Final = 100
# How long the broker may take to acknowledge one, and how many it is given at once.
ALERTS_PUBACK_TIMEOUT_S: Final = 10.0
ALERTS_PUBLISH_AT_ONCE: Final = 16
# How often a bridge compares what the broker retains with what it should, how long reading it may take, and
# how many retained messages are looked at: others can put there what they like.
ALERTS_CHECK_INTERVAL_S: Final = 120.0
ALERTS_CHECK_TIMEOUT_S: Final = 60.0
ALERTS_RETAINED_MAX: Final = 200_000
ALERTS_PAGE: Final = 1000
# How long ago an alert that a broker may have brought back from a snapshot can have been closed.
ALERTS_PUBLISH_AGAIN_H: Final = 24
# How often a bridge that leaves looks whether it has taken all in, and how often in a row it then has the
# broker answer a ping before it believes that nothing is held.
LEAVE_LOOK_S: Final = 0.2
LEAVE_BARRIERS: Final = 2

# The bridge's intake.
BATCH_MESSAGES_MAX: Final = 2000
BATCH_BYTES_MAX: Final = 1024 * 1024
# Events and rejections that are decoded before they are written: more than good events have in a batch. They
# are counted each time that so many messages are decoded.
BATCH_ELEMENTS_MAX: Final = 10_000
MESSAGES_DECODED_AT_ONCE: Final = 25
BATCHES_INFLIGHT_MAX: Final = 4
# How long a message may wait for others that make its batch larger. The wait ends when a half of it brought
# none. Many have little left to save of what a batch costs: it ends when an eighth brought none, or at once.
LINGER_MS: Final = 18
LINGER_PARTS_FEW: Final = 2
LINGER_PARTS_MANY: Final = 8
LINGER_MANY: Final = 40
INFLIGHT_MESSAGES_MAX: Final = 10_000
INFLIGHT_BYTES_MAX: Final = 64 * 1024 * 1024
DRAIN_TIMEOUT_S: Final = 20.0

# What one device may send to one bridge: events and bytes at once, and within how many seconds as much again.
# A backlog of years passes untouched (an event an hour for ten years are 87,600); a device that goes on for
# ever is left with 100 events a second, of the tens of thousands that a bridge stores.
DEVICE_EVENTS_BURST: Final = 100_000
DEVICE_BYTES_BURST: Final = 128 * 1024 * 1024
DEVICE_REFILL_S: Final = 1000.0
# Of a batch of so many messages one of so many is counted, and stands for the others.
RATES_SAMPLED_FROM: Final = 100
RATES_SAMPLED_ONE_OF: Final = 8
# Buckets are looked at so often, or when there are so many. Where more are not empty, half of that number
# stay, the fullest, and the others begin anew. A full one is full until it has emptied to this share.
BUCKET_LEAK_INTERVAL_S: Final = 2.0
BUCKETS_MAX: Final = 20_000
BUCKET_AGAIN_SHARE: Final = 0.9
# What is bad in a message, in events. Measured, bridge and mongod together: 37 µs a message of a good event,
# 82 of a bad one, 1,050 of 500 bad elements.
LETTER_EVENTS: Final = 5
REJECTIONS_AN_EVENT: Final = 10
# The quarantine of what exceeds that, or comes from a device that is not in the directory: letters of one
# device at once, and bytes, and of all devices of a bridge together; within how many seconds as much again.
QUARANTINE_LETTERS: Final = 200
QUARANTINE_BYTES: Final = 4 * 1024 * 1024
QUARANTINE_LETTERS_OF_ALL: Final = 10_000
QUARANTINE_BYTES_OF_ALL: Final = 256 * 1024 * 1024
QUARANTINE_REFILL_S: Final = 12_000.0
# How often it is written down whose messages were left out, of how many devices at once, the most first.
LEFT_OUT_INTERVAL_S: Final = 10.0
LEFT_OUT_DEVICES_MAX: Final = 100
# The bridge's copy of the directory's ids: how often it asks what changed, so that a device that was added is
# taken in within twice that; how often it reads all anew; how many ids it holds, and reads at once.
KNOWN_DEVICES_INTERVAL_S: Final = 2.0
KNOWN_DEVICES_REREAD_S: Final = 600.0
KNOWN_DEVICES_MAX: Final = 2_000_000
KNOWN_DEVICES_AT_ONCE: Final = 2_000
# Log lines of one kind that others can cause, within a minute; the rest is counted, and told in one line.
LOG_LINES_A_MINUTE: Final = 20
LOG_MINUTE_S: Final = 60.0

# Objects that may be made before Python looks for reference cycles among them, and how many such looks
# before it looks at older ones.
GC_THRESHOLDS: Final = (100_000, 20, 20)
# The same of the api, of which an object may hold a body of 256 KiB.
API_GC_THRESHOLDS: Final = (10_000, 20, 20)

# Topics whose device id need not be looked for again: about those of a batch's senders, not of all devices.
TOPICS_REMEMBERED: Final = 4096

# The bridge's MQTT session.
KEEP_ALIVE_S: Final = 30
# For so long what was sent may be without an answer of the broker's machine (TCP_USER_TIMEOUT, on Linux): one
# that lost its power ends a connection so, and a broker that writes its snapshot for a minute does not.
LINE_SILENCE_S: Final = 20
CONNECT_TIMEOUT_S: Final = 10.0
RECEIVE_MAXIMUM: Final = 4096
SESSION_EXPIRY_S: Final = 30 * 24 * 3600
RECEIPT_EXPIRY_S: Final = 24 * 3600
# A broker that hangs up without a word so many times within so many seconds has given our session to another
# client.
HANG_UPS_MAX: Final = 3
HANG_UPS_WITHIN_S: Final = 60.0
# A receipt to a device, which may have a Maximum Packet Size of 2,048: 512 bytes are left for topic,
# Correlation Data and the rest. Ranges of places fit in for any 500 events.
RECEIPT_BYTES_MAX: Final = 1536
# Correlation Data goes back with the receipt, and has to fit in beside it; ours has 16 bytes. A message that
# comes with more is kept, and not answered.
CORRELATION_BYTES_MAX: Final = 256

# The endpoint of a program's metrics: what one request may be, how long it may take, and how many at once.
METRICS_REQUEST_BYTES_MAX: Final = 8 * 1024
METRICS_REQUEST_TIMEOUT_S: Final = 5.0
METRICS_CONNECTIONS_MAX: Final = 16
# How often an api asks Redis and MongoDB for what it tells only in its metrics.
METRICS_WATCH_INTERVAL_S: Final = 10.0
# Causes that metrics tell apart; texts of devices that a label may have within how long.
METRICS_CAUSES_MAX: Final = 20
METRICS_TEXTS_MAX: Final = 200
METRICS_TEXTS_S: Final = 86_400.0

# The URL of a server, with all its hosts and options.
URL_CHARS_MAX: Final = 8 * 1024

# A file with a secret: a URL, a key, or a list of keys.
SECRET_FILE_BYTES_MAX: Final = 64 * 1024

# Messages with a topic that PiSync does not have: how many messages of any topic a bridge looks at within a
# second, how many bytes, how long it rests beyond that, and how often it says so.
STRAYS_LOOKED_AT_MAX: Final = 200
STRAYS_LOOKED_AT_BYTES_MAX: Final = 1024 * 1024
STRAYS_REST_S: Final = 10.0
STRAYS_TOLD_INTERVAL_S: Final = 3600.0

# Retry with full jitter: uniform(0, min(cap, base * 2^attempt)).
BACKOFF_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 10.0
# A bridge looks for Redis more often: after a failover it is to be attached within seconds.
REATTACH_CAP_S: Final = 1.0

# The connections to the stores: how long looking for a server, an answer, and a goodbye may take.
MONGODB_CONNECT_TIMEOUT_MS: Final = 5000
MONGODB_SOCKET_TIMEOUT_MS: Final = 20_000
MONGODB_CLOSE_TIMEOUT_S: Final = 1.0
# How long a majority may take to confirm that the primary is one: below a socket's timeout, so that MongoDB
# ends it.
CONFIRM_TIMEOUT_MS: Final = 15_000
# A secondary that is further behind is not read from; MongoDB's least.
SECONDARY_STALENESS_S_MAX: Final = 90
# How often each member tells how far it is.
SECONDARY_HEARTBEAT_MS: Final = 5000
REDIS_SOCKET_TIMEOUT_S: Final = 5.0
# Where Redis is several processes: how long one may take to say who holds what before another is asked, and
# how old that may be.
REDIS_TOPOLOGY_TIMEOUT_S: Final = 1.0
REDIS_TOPOLOGY_YOUNG_S: Final = 2.0
# How long a page of history waits for Redis to tell the days of a device, which it can do without.
DAYS_HINT_TIMEOUT_S: Final = 0.2

# The fleet in memory: how often it asks what changed, for how many devices it works before others have their
# turn, how many times as long as a part took it rests while there is more, how often it reads all of it anew.
FLEET_POLL_INTERVAL_S: Final = 1.0
FLEET_APPLIED_AT_ONCE: Final = 500
FLEET_RESTS: Final = 3
FLEET_REREAD_INTERVAL_S: Final = 600.0
# Devices that are new are looked up one by one until so many wait, or a part of those that are there.
FLEET_UNSETTLED_MAX: Final = 5000
FLEET_UNSETTLED_PART: Final = 4
# How old what it read last may be while it counts as current; how often it finds out who is silent too long.
FLEET_YOUNG_S: Final = 5.0
FLEET_SILENCE_INTERVAL_S: Final = 10.0
# A change of the directory may become visible so long after a later one.
DIRECTORY_OVERLAP_S: Final = 10.0

# The name of who confirms a correction of a clock.
CONFIRMED_BY_CHARS_MAX: Final = 64

# The directory of devices and sites: characters of a text, elements of a list, days of a habit.
DIRECTORY_NAME_CHARS_MAX: Final = 200
DIRECTORY_NOTE_CHARS_MAX: Final = 2000
DIRECTORY_LABELS_MAX: Final = 20
DIRECTORY_LABEL_CHARS_MAX: Final = 64
DIRECTORY_HOLIDAYS_MAX: Final = 100
DIRECTORY_HABIT_DAYS_MAX: Final = 365
# Entries that are read, compared and written at once.
DIRECTORY_BATCH: Final = 500
# An import: bytes of its body, lines with an entry, bytes of a line (all that an entry may hold fits in, with
# every character escaped), faults that are told, changes whose members its action tells, imports at once. Its
# entries wait in a temporary file, of which so many KiB are in memory.
IMPORT_BYTES_MAX: Final = 256 * 1024 * 1024
IMPORT_ENTRIES_MAX: Final = 1_000_000
IMPORT_LINE_BYTES_MAX: Final = 64 * 1024
IMPORT_FAULTS_TOLD_MAX: Final = 1000
IMPORT_CHANGES_TOLD_MAX: Final = 50
IMPORTS_AT_ONCE: Final = 2
IMPORT_SPOOL_MEMORY_KIB: Final = 8 * 1024
# How often a change of one entry is tried where others change it at the same moment.
DIRECTORY_CHANGE_TRIES: Final = 10

# Acknowledgements of alerts and causes: characters of a reason, devices that a cause may come to have more,
# how often one is tried where others acknowledge the same at the same moment. A worker looks so often for
# those that have ended, so many at once.
ACKNOWLEDGEMENT_REASON_CHARS_MAX: Final = 1000
ACKNOWLEDGEMENT_MORE_DEVICES_MAX: Final = 10_000_000
ACKNOWLEDGEMENT_TRIES: Final = 10
ACKNOWLEDGEMENTS_INTERVAL_S: Final = 5.0
ACKNOWLEDGEMENTS_BATCH: Final = 500

# Incidents. So many devices of a site, and so large a part of those that tried, or are usually heard, fail or
# are silent alike; so large a part of those that fail has one code. By chance alone, given the devices' own
# shares of bad days, that happens at most so often.
INCIDENT_DEVICES_MIN: Final = 3
INCIDENT_SHARE: Final = 0.6
INCIDENT_CODE_SHARE: Final = 2 / 3
INCIDENT_CHANCE_MAX: Final = 1e-4
# Within which times before now devices tried, the longest first. A device with few days counts as if it had
# so many more, with the fleet's share of bad days, and that is so much at least; by how many devices it is
# estimated.
INCIDENT_WINDOWS_S: Final = (24 * 3600, 6 * 3600, 3600)
INCIDENT_DAYS_ASSUMED: Final = 5
INCIDENT_BAD_SHARE_MIN: Final = 0.01
INCIDENT_SAMPLED_DEVICES_MAX: Final = 100_000
# A code rises over many sites: so many devices fail by it, at so many sites, so many times as many as usual,
# and by so many times the square root of that more; one site has no more than so large a part of them.
SPREADING_DEVICES_MIN: Final = 10
SPREADING_SITES_MIN: Final = 3
SPREADING_TIMES: Final = 2.0
SPREADING_NOISE: Final = 3.0
SPREADING_SITE_SHARE: Final = 0.5
SPREADING_WINDOW_S: Final = 24 * 3600
# An incident goes on while so many devices, and so large a part, are in it; of a code, so many, and so many
# times as many as usual.
INCIDENT_GOES_ON_DEVICES: Final = 2
INCIDENT_GOES_ON_SHARE: Final = 1 / 3
SPREADING_GOES_ON_DEVICES: Final = 5
SPREADING_GOES_ON_TIMES: Final = 1.5
# How often a worker looks; how long the condition holds before an incident is opened, and does not before it
# is closed; within what time it is opened again instead of another one; how often rollups are asked.
INCIDENTS_INTERVAL_S: Final = 10.0
INCIDENT_OPENS_AFTER_S: Final = 120.0
INCIDENT_CLOSES_AFTER_S: Final = 600.0
INCIDENT_REOPENS_S: Final = 86_400.0
INCIDENT_CODES_INTERVAL_S: Final = 60.0
# Open incidents that are looked at. Devices whose first failure is looked for, to say since when, some at
# once, as far as a streak is not longer than so many; how long it may have taken half of them to begin; how
# many times as many an incident has before that is looked for again.
INCIDENTS_OPEN_MAX: Final = 5000
INCIDENT_STARTS_MAX: Final = 500
INCIDENT_STARTS_AT_ONCE: Final = 16
INCIDENT_STREAK_READ_MAX: Final = 100
INCIDENT_ONSET_S: Final = 86_400
INCIDENT_STARTS_GROWTH: Final = 1.2
# How often the api reads which incidents are open, how old that may be, how many devices of one it tells.
OPEN_INCIDENTS_INTERVAL_S: Final = 1.0
OPEN_INCIDENTS_YOUNG_S: Final = 10.0
INCIDENT_DEVICES_TOLD_MAX: Final = 100

# Notifications. Recipients, and characters of an address; sites or labels that one chooses; characters of the
# key that signs what is sent to a webhook; after how many hours it is told again that something still is
# open, and how often at most.
RECIPIENTS_MAX: Final = 200
RECIPIENT_ADDRESS_CHARS_MAX: Final = 2000
RECIPIENT_CHOICES_MAX: Final = 100
SIGNING_KEY_CHARS_MIN: Final = 16
SIGNING_KEY_CHARS_MAX: Final = 200
SIGNING_KEY_BYTES: Final = 32
STILL_OPEN_HOURS: Final = 24
STILL_OPEN_HOURS_MAX: Final = 30 * 24
STILL_OPEN_TOLD_MAX: Final = 7
# How often a change of a recipient is tried where others change it; attempts that are kept of one; after how
# many that failed in a row it counts as failing.
RECIPIENT_CHANGE_TRIES: Final = 10
RECIPIENT_ATTEMPTS_KEPT: Final = 20
NOTIFIER_FAILING: Final = 3
# Schemes of Apprise that act on the worker's own machine.
APPRISE_REFUSED: Final = frozenset(
    {"dbus", "qt", "kde", "glib", "gio", "gnome", "macosx", "syslog", "windows"}
)
# How often a worker looks for transitions, how many times as long as a look took it pauses; how long an alert
# of a single device waits for an incident that explains it; transitions that one look tells. An incident is
# told again each time that it has so many times as many devices, not more often than this.
NOTIFICATIONS_INTERVAL_S: Final = 10.0
NOTIFICATIONS_PAUSES: Final = 10
NOTIFICATION_FOLD_S: Final = 600.0
NOTIFICATIONS_AT_ONCE: Final = 2000
INCIDENT_GREW_TIMES: Final = 2
INCIDENT_GREW_S: Final = 600.0
# How often it looks what is due; what became due within this time is one message of so many notifications at
# most, of which it tells so many one by one; how late a digest may be.
NOTIFICATIONS_SEND_INTERVAL_S: Final = 2.0
NOTIFICATION_GROUP_S: Final = 60.0
NOTIFICATIONS_GROUPED_MAX: Final = 2000
NOTIFICATIONS_TOLD_MAX: Final = 50
NOTIFICATIONS_MESSAGES_READ: Final = 200
DIGEST_OPEN_TOLD_MAX: Final = 30
DIGEST_LATE_S: Final = 12 * 3600.0
# Messages that are sent at once, how long one may take, and after how long one is sent again where a killed
# worker did not write down what became of it.
MESSAGES_AT_ONCE: Final = 8
MESSAGE_TIMEOUT_S: Final = 20.0
MESSAGE_CLAIMED_S: Final = 120.0
# After how long one that failed is tried again, doubled each time, up to a most; until when.
NOTIFICATION_RETRY_S: Final = 30.0
NOTIFICATION_RETRY_S_MAX: Final = 3600.0
NOTIFICATION_GIVEN_UP_S: Final = 86_400.0
# Bytes of a webhook's answer that are read; characters of why a message could not be sent that are kept.
WEBHOOK_ANSWER_BYTES_MAX: Final = 4096
ATTEMPT_WHY_CHARS_MAX: Final = 200
# Characters of a name, of a title, and of a line of a text; how long notifications and messages are kept.
NOTIFICATION_NAME_CHARS_MAX: Final = 100
NOTIFICATION_TITLE_CHARS_MAX: Final = 200
NOTIFICATION_WIDTH: Final = 76
NOTIFICATIONS_KEPT_S: Final = 90 * 86_400
# How late notifications may be before health tells it.
NOTIFICATIONS_LATE_S_MAX: Final = 600.0

# The HTTP layer.
PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1000
# Beyond so many bytes a page ends, whatever its `limit` is: bytes of JSON, and of what is read for it.
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
# Faulty parameters that one answer names, and how much of a name it repeats.
PARAMETER_FAULTS_MAX: Final = 20
PARAMETER_NAME_CHARS_MAX: Final = 100
RECEIPT_TIMEOUT_S: Final = 5.0
HTTP_BODY_BYTES_MAX: Final = MESSAGE_BYTES_MAX
# What the broker may leave untaken before a POST is refused, in bytes.
UNSENT_BYTES_MAX: Final = 16 * 1024 * 1024
# POSTs that wait for a receipt at once. Each holds its body, so this bounds memory: 256 times 256 KiB.
WAITING_MAX: Final = 256
# A body of events a line (NDJSON): its bytes, as it comes and decoded, its lines, and such bodies at once.
# Events are gathered, so that those of a device share messages, until there are so many, or so many bytes.
BULK_BYTES_MAX: Final = 64 * 1024 * 1024
BULK_LINES_MAX: Final = 500_000
BULKS_AT_ONCE: Final = 8
BULK_GATHERED_EVENTS: Final = 10_000
BULK_GATHERED_BYTES: Final = 2 * 1024 * 1024
# Messages that wait for receipts at once, of all bodies about several devices: half of WAITING_MAX, so that
# others have their turn. After so many in a row of which no receipt came the rest of a body is not sent.
BULK_PUBLISHES_AT_ONCE: Final = 128
BULK_FAILURES_MAX: Final = 16
# Rejections that one answer tells one by one; beyond it, those of a reason together.
BULK_REJECTIONS_TOLD_MAX: Final = 1000
# Connections at once, and from one address that is no trusted proxy's; those that wait give way, and beyond
# it a request is answered 503, but for probes. Below the usual limit of 1,024 open files.
HTTP_CONNECTIONS_MAX: Final = 900
HTTP_CONNECTIONS_OF_ADDRESS_MAX: Final = 256
# OpenAPI documents that are kept as they are sent, one for each prefix of a proxy.
DOCUMENTS_KEPT_MAX: Final = 4
# A request's line and headers, and how long its head, and then its body, may take to come in.
HTTP_HEAD_BYTES_MAX: Final = 64 * 1024
HTTP_DEADLINE_S: Final = 10.0
# Requests of one principal to one route that his role does not allow are written down once in this time, with
# how many they were; and so many pairs of the two are remembered.
DENIED_TOLD_INTERVAL_S: Final = 60.0
DENIED_KEPT_MAX: Final = 1000
# Of a query. The links of a page repeat them all, so that what a request costs grows with their square.
HTTP_PARAMETERS_MAX: Final = 100
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
# How long each broker has where all are asked: less than that, so that one that is silent is named.
BROKER_PING_S: Final = 1.5
# After how long without a heartbeat /readyz calls a bridge silent; how long it remembers a refused publish.
BRIDGE_SILENT_S: Final = 15.0
REFUSAL_REMEMBERED_S: Final = 15.0
# The api's keys: characters of a name, and at least of one that is configured; how often a replica reads the
# stored ones, and how old its copy may be, after which a key that was revoked opens nothing anywhere.
KEY_NAME_CHARS_MAX: Final = 64
CONFIGURED_KEY_CHARS_MIN: Final = 16
# Keys that are not revoked, and all that are read: of revoked ones the newest.
KEYS_MAX: Final = 1000
KEYS_READ_MAX: Final = 5000
KEYS_INTERVAL_S: Final = 2.0
KEYS_STALE_S: Final = 5.0
# How often it is kept at most when a key was used last.
KEY_USED_INTERVAL_S: Final = 60.0
# Requests a second, on average, of one key, of one address while the api is open, and of one address that
# does not say who it is; so many seconds' worth of them may come at once. Keys, and addresses, that are
# remembered; addresses of which it is remembered whether they are of this machine.
KEY_REQUESTS_PER_S: Final = 1000.0
ADDRESS_REQUESTS_PER_S: Final = 100.0
REQUESTS_BURST_S: Final = 10.0
CALLER_BUCKETS_MAX: Final = 10_000
ADDRESSES_READ_MAX: Final = 1000
# Wrong keys of an address within a minute, beyond which they are answered 429; how often an address is told
# of, how many names of keys with it, and how many addresses each time that the keys are read.
REFUSED_PER_MINUTE: Final = 10
REFUSED_TOLD_INTERVAL_S: Final = 60.0
REFUSED_NAMES_TOLD_MAX: Final = 5
REFUSED_TOLD_AT_ONCE: Final = 20
# Proxies in a row whose word about a client's address is taken.
PROXIES_MAX: Final = 16
# Exact failure counts that one page asks of MongoDB at once.
EXACT_COUNTS_INFLIGHT_MAX: Final = 16
# Beyond the time that a POST may wait for its receipt: what a stop leaves for writing answers, in seconds.
STOP_MARGIN_S: Final = 3
# Several processes of an api: how many at the most, how often they are looked at where no signal comes, and
# after how long one that ends is begun again as if it never had.
API_PROCESSES_MAX: Final = 64
API_PROCESSES_LOOK_S: Final = 5.0
API_PROCESS_STEADY_S: Final = 60.0
# After how long a background task that should end is cancelled again, in seconds.
CANCEL_AGAIN_S: Final = 0.5

# The web page. Of a text that is cut, characters of the whole that its `title` holds; characters of the line
# after an action, and how long a browser keeps it; the bytes from which a page is compressed, and how hard.
PAGE_TITLE_CHARS_MAX: Final = 2000
PAGE_MESSAGE_CHARS_MAX: Final = 500
PAGE_MESSAGE_S: Final = 60
# How long what an action changed of many devices is kept, so that it can be taken back.
UNDO_S: Final = 86_400
ACTION_WHO_CHARS_MAX: Final = 80
ACTION_REASON_CHARS_MAX: Final = 500
ACTION_DEVICES_MAX: Final = 10_000
# Alerts that one action acknowledges, and how many of them at once: each is written down by itself.
ACTION_ALERTS_MAX: Final = 500
ACKNOWLEDGED_AT_ONCE: Final = 8
ACTION_WHO_S: Final = 365 * 86_400
# How long a form waits for what becomes of the test that it had sent, how often it looks; characters of a
# form that a browser keeps to take a change back.
PAGE_TEST_S: Final = 8.0
PAGE_TEST_INTERVAL_S: Final = 0.25
PAGE_UNDO_CHARS_MAX: Final = 1500
PAGE_COMPRESSED_BYTES_MIN: Final = 1024
PAGE_COMPRESSION: Final = 2
# Devices on a page of the fleet; what the overview lists of a kind; syncs that a device's page shows.
PAGE_DEVICES: Final = 50
PAGE_SITE_DEVICES: Final = 100
CAUSE_DEVICES: Final = 20
OVERVIEW_ROWS: Final = 10
# Devices in incidents that are passed over at most, to find those that are not.
OVERVIEW_FOLDED_MAX: Final = 500
DEVICE_SYNCS: Final = 50
DEVICE_ROWS: Final = 10
# Sites that the table of dead letters names of a reason.
LETTER_SITES_SHOWN: Final = 4
# How old what the overview tells of rollups may be: what was received, and whether causes spread.
OVERVIEW_RECEIVED_S: Final = 5.0
OVERVIEW_TRENDS_S: Final = 60.0
# How old counts of commands by state may be: none is older than an operator's own press of a button.
PAGE_COUNTS_S: Final = 1.0
# How old what the truth line tells of the broker may be.
PAGE_BROKER_S: Final = 5.0
# Live pages: how often a replica looks whether something changed; after how long a stream says that it is
# alive; how often a page asks anew at most, and how often where it has no stream; streams of a replica, and
# of one browser, which opens 6 connections to a host (HTTP/1.1) and needs some for its requests.
LIVE_INTERVAL_S: Final = 1.0
LIVE_SIGN_S: Final = 10.0
LIVE_POLL_S: Final = 15
LIVE_STREAMS_MAX: Final = 300
LIVE_STREAMS_OF_BROWSER_MAX: Final = 3

# Users and their browsers. Characters of a name and of a password; what hashing one takes (Argon2id: KiB,
# passes, lanes), how many are checked at once, and how many may wait for that.
USER_NAME_CHARS_MAX: Final = 64
USERS_MAX: Final = 1000
USER_CHANGE_TRIES: Final = 10
PASSWORD_CHARS_MIN: Final = 12
PASSWORD_CHARS_MAX: Final = 200
PASSWORD_MEMORY_KIB: Final = 32 * 1024
PASSWORD_PASSES: Final = 3
PASSWORD_LANES: Final = 1
PASSWORD_CHECKS_AT_ONCE: Final = 2
PASSWORD_CHECKS_WAITING_MAX: Final = 32
# Wrong passwords within a time: for one name from one address, for all names from one address, and for one
# name from all of them; beyond it the next is not looked at. Names and addresses that are counted at once.
LOGIN_FAILURES_S: Final = 300.0
LOGIN_FAILURES_MAX: Final = 5
LOGIN_FAILURES_OF_ADDRESS_MAX: Final = 30
LOGIN_FAILURES_OF_NAME_MAX: Final = 100
LOGIN_FAILURES_COUNTED: Final = 10_000
# Sessions end when nobody used them for so long, and at the latest after so long; sooner where an identity
# provider vouched for somebody. How many one may have, and how many there may be.
SESSION_IDLE_S: Final = 12 * 3600
SESSION_S: Final = 7 * 86_400
SESSION_OF_PROVIDER_S: Final = 12 * 3600
SESSIONS_OF_ONE_MAX: Final = 20
SESSIONS_MAX: Final = 5000
PAGE_SESSIONS: Final = 200
KEY_DAYS_MAX: Final = 3650
# How often a replica reads sessions and users, and how old what it goes by may be: so long one that was ended
# at another replica, or on the command line, may still be used. How exact the time of the last use is; how
# many sessions that it has not read yet it looks up in a second.
SESSIONS_INTERVAL_S: Final = 2.0
SESSIONS_AGE_S_MAX: Final = 5.0
SESSION_SEEN_S: Final = 60.0
SESSION_LOOKUPS_MAX: Final = 20
SESSION_BROWSER_CHARS_MAX: Final = 200
# How long a login form, and a login at the identity provider, may take; how long that may take to answer, how
# much it may answer, how old what it says of itself may be, and by how much its clock may differ; values of
# the claim with roles that are looked at.
LOGIN_FORM_S: Final = 3600
LOGIN_START_S: Final = 600
PROVIDER_TIMEOUT_S: Final = 10.0
PROVIDER_BYTES_MAX: Final = 1024 * 1024
PROVIDER_METADATA_S: Final = 3600.0
PROVIDER_CLOCK_S: Final = 60
PROVIDER_ROLES_MAX: Final = 1000

# The broker's list of devices. How often changes are looked for, and everything is compared; how long one
# command may take; after how long a broker that refuses us is asked again; devices that one command changes
# where the broker writes its list once for all, and names that one command lists.
BROKER_ACCESS_INTERVAL_S: Final = 1.0
BROKER_ACCESS_COMPARED_S: Final = 300.0
# By how much clocks may differ where what changed is looked for first, and how long after it began a write
# may become visible.
BROKER_ACCESS_CLOCKS_S: Final = 300.0
BROKER_ACCESS_OVERLAP_S: Final = 10.0
BROKER_ACCESS_TIMEOUT_S: Final = 30.0
BROKER_ACCESS_REFUSED_WAIT_S: Final = 10.0
BROKER_ACCESS_AT_ONCE: Final = 200
BROKER_ACCESS_PAGE: Final = 1000
# More devices of which MongoDB knows nothing, and more than half of the broker's, are not put out: because
# credentials are never deleted, MongoDB lost them.
BROKER_ACCESS_STRANGE_MAX: Final = 20
# How many times as long as a change took the broker is left alone, and for how many seconds at most.
BROKER_ACCESS_REST: Final = 3
BROKER_ACCESS_REST_S_MAX: Final = 5.0

# Recording and replaying. How long the broker keeps a recorder's session while its connection is away.
RECORDER_SESSION_EXPIRY_S: Final = 600
# The longest line of a file that is read: a packet that the broker takes, as base64.
REPLAY_LINE_BYTES_MAX: Final = 2 * 1024 * 1024
REPLAY_PIECE_BYTES: Final = 256 * 1024
# Physical lines that one record of CSV may have, and how much of a line a report repeats.
CSV_RECORD_LINES_MAX: Final = 20
REPLAY_TEXT_CHARS_MAX: Final = 200
# What is read of a file and not confirmed yet, in events and bytes: beyond it no more is read.
REPLAY_INFLIGHT_EVENTS_MAX: Final = 50_000
REPLAY_INFLIGHT_BYTES_MAX: Final = 32 * 1024 * 1024
REPLAY_BATCH_ITEMS: Final = 5000
# Messages that wait for their receipts at once, of which each device has one: half of WAITING_MAX.
REPLAY_MESSAGES_AT_ONCE: Final = 128
# How long a receipt is waited for before a message is sent again, and how long after a refusal, in seconds.
REPLAY_RECEIPT_TIMEOUT_S: Final = 60.0
REPLAY_REFUSED_WAIT_S: Final = 5.0
REPLAY_WAIT_S_MAX: Final = 600.0
# How often the checkpoint is written, and how exactly the time of an event is kept, in seconds.
REPLAY_CHECKPOINT_INTERVAL_S: Final = 1.0
REPLAY_PACE_S: Final = 0.02
# What is listed at the end of a replay; the report has all.
REPLAY_FAULTS_SHOWN_MAX: Final = 20

# Certificates (pisync/pki). The authority's own outlives the devices that trust it; a device is seldom at
# hand, so that its own is valid for years; a server's lasts as long as browsers take one of somebody's own
# authority (825 days). Each begins a day before it is issued, so that a clock that is behind takes it.
AUTHORITY_DAYS: Final = 20 * 365
DEVICE_CERTIFICATE_DAYS: Final = 5 * 365
PROGRAM_CERTIFICATE_DAYS: Final = 2 * 365
SERVER_CERTIFICATE_DAYS: Final = 825
CERTIFICATE_DAYS_MAX: Final = 50 * 365
CERTIFICATE_BACKDATED_S: Final = 24 * 60 * 60
# A request for a certificate, or a file of certificates, that is read; bits of an RSA key that is taken:
# fewer are weak, and more cost a server much time.
CERTIFICATE_REQUEST_BYTES_MAX: Final = 16 * 1024
CERTIFICATE_FILE_BYTES_MAX: Final = 64 * 1024
RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 4096
# A list of revoked certificates that is read: about 40 bytes for each, so a million of them.
REVOCATIONS_BYTES_MAX: Final = 128 * 1024 * 1024

# Credentials that are kept of a device: one that is valid is never forgotten, of the others the oldest first.
DEVICE_CREDENTIALS_MAX: Final = 16
# Devices whose credentials are read, or written, by one command.
CREDENTIALS_AT_ONCE: Final = 500
# Days before its end from which on a device's last credential, a server's certificate or a list of revoked
# ones is warned of.
EXPIRY_WARNED_DAYS: Final = (30, 7)
# How long a token holds by which a device may enrol, and at most.
ENROLMENT_TOKEN_S: Final = 7 * 86_400
ENROLMENT_TOKEN_S_MAX: Final = 90 * 86_400
# Certificates that `pisync devices issue` makes and writes at once.
CERTIFICATE_WRITERS: Final = 16
# Requests to enrol of one address in a minute, at which more wait: a school is behind one.
ENROLMENTS_PER_MINUTE: Final = 120
# Files of which the api tells when what is in them ends.
CERTIFICATE_FILES_MAX: Final = 64
# After how long a device asks again whose request cannot be signed for now, in seconds.
ENROLMENT_RETRY_S: Final = 3600


# Archives (`pisync export archive`, `pisync import`). How long after the end of a day of receipt it may still
# change: a bridge that could not reach MongoDB for hours stores what it received before.
ARCHIVE_SETTLED_S: Final = 2 * 86_400
# Events that are read and turned into columns at once, and that make a row group, unless these are larger.
ARCHIVE_EVENTS_AT_ONCE: Final = 5000
ARCHIVE_GROUP_EVENTS: Final = 100_000
ARCHIVE_GROUP_BYTES: Final = 64 * 1024 * 1024
# Events, and documents of other collections, that one command inserts.
ARCHIVE_INSERT_EVENTS: Final = 2000
ARCHIVE_INSERT_DOCUMENTS: Final = 100
# What a file is read by to compare its digest, and a manifest that is read.
ARCHIVE_PIECE_BYTES: Final = 1024 * 1024
ARCHIVE_MANIFEST_BYTES_MAX: Final = 1024 * 1024
# How long a server of S3 may take to answer a connection, and be silent in a request: 3 s, which the library
# has, are too few for one that copies a large file, which is how a day gets its name there.
ARCHIVE_S3_CONNECT_TIMEOUT_S: Final = 10.0
ARCHIVE_S3_TIMEOUT_S: Final = 60.0
# Conflicts and differences that are told one by one.
ARCHIVE_FAULTS_SHOWN_MAX: Final = 20
