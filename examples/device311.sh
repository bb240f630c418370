#!/bin/sh
# A device that loses no event, with mosquitto_pub and mosquitto_sub only: MQTT 3.1.1, receipts by token.
#
#   ID=PB-000123 device311.sh record 20 1 3.2     files, errors, Mbit/s; after each sync, needs no network
#   ID=PB-000123 BROKER='-h broker.example -p 8883 --cafile ca.pem' device311.sh send
#
# From cron, one at a time:  * * * * * ID=PB-000123 flock -n /var/lock/pisync device311.sh send
#
# An event is a file in $SPOOL/events, and the file's name is its token. It is removed when its receipt came, and moved
# to $SPOOL/rejected where that rejects it. `send` ends with 0 when nothing waits any more, with 1 when something does.
# Receipts wait in the broker's session of this id, so that nothing has to listen between two runs.
set -u
: "${ID:?the device id}" "${SPOOL:=spool}" "${BROKER:=-h 127.0.0.1 -p 1883}"
: "${PUBACK_WAIT_S:=20}" "${RECEIPT_WAIT_S:=600}" "${RUN_S:=50}" "${LISTEN_S:=5}"
TOPIC=pisync/v1/devices/$ID
mkdir -p "$SPOOL/events" "$SPOOL/sent" "$SPOOL/new" "$SPOOL/rejected"

wait_s() { # $1 seconds, doubled $2 times, $3 at most, times 0.5 to 1.5
    seconds=$1 doubled=0
    while [ "$doubled" -lt "$2" ] && [ "$seconds" -lt "$3" ]; do seconds=$((seconds * 2)) doubled=$((doubled + 1)); done
    [ "$seconds" -gt "$3" ] && seconds=$3
    echo $((seconds * (50 + $(od -An -N2 -tu2 /dev/urandom) % 101) / 100))
}

record() {
    while :; do # two events cannot have one timestamp; without a clock finer than a second, wait for the next one
        second=$(date -u +%Y-%m-%dT%H:%M:%S) millisecond=0
        while [ "$millisecond" -lt 1000 ]; do
            time=$second.$(printf %03d "$millisecond")Z
            name=$(echo "$time" | tr -d :)
            # `mkdir` is atomic: of two that record at once, one gets the name.
            [ ! -e "$SPOOL/events/$name" ] && mkdir "$SPOOL/new/$name" 2>/dev/null && break 2
            millisecond=$((millisecond + 1))
        done
        sleep 1
    done
    printf '{"device_id":"%s","timestamp":"%s","total_files_synced":%s,"total_errors":%s,"internet_speed":%s}' \
        "$ID" "$time" "$1" "$2" "$3" >"$SPOOL/new/$name/event"
    sync # the event is on the disk before it has its name: after a power cut no file is half of one
    mv "$SPOOL/new/$name/event" "$SPOOL/events/$name"
    # A name stays taken for its second; the directories of earlier ones go.
    for old in "$SPOOL"/new/*; do case ${old##*/} in "$(echo "$second" | tr -d :)"*) ;; *) rmdir "$old" 2>/dev/null ;; esac; done
}

listen() { # $1 receipts at most
    # shellcheck disable=SC2086  # BROKER is several words
    mosquitto_sub $BROKER -V mqttv311 -i "$ID" -c -q 1 -t "$TOPIC/receipts/+" -F '%t %p' -C "$1" -W "$LISTEN_S" |
        while read -r topic receipt; do
            name=${topic##*/}
            [ -f "$SPOOL/events/$name" ] || continue # of an earlier life
            case $receipt in
                *'"rejected":[]'*) rm "$SPOOL/events/$name" ;;
                *'"rejected":['*) # it is the only event of its message: sending it again would not help
                    echo "rejected: $name $receipt" >&2
                    mv "$SPOOL/events/$name" "$SPOOL/rejected/$name" ;;
                *) continue ;;
            esac
            rm -f "$SPOOL/sent/$name"
        done
}

publish() { # $1 name; $SPOOL/sent/$1 holds: when to send again, PUBACKs that it had, attempts without one since
    due=0 acknowledged=0 attempts=0 now=$(date +%s)
    [ -s "$SPOOL/sent/$1" ] && read -r due acknowledged attempts <"$SPOOL/sent/$1"
    # A clock that was set back must not make the wait longer than it can be.
    [ "$due" -gt "$now" ] && [ "$due" -lt $((now + 21600)) ] && return
    # shellcheck disable=SC2086
    if mosquitto_pub $BROKER -V mqttv311 -i "$ID.pub" -q 1 -t "$TOPIC/sync/$1" -f "$SPOOL/events/$1"; then
        due=$((now + $(wait_s "$RECEIPT_WAIT_S" "$acknowledged" 14400))) acknowledged=$((acknowledged + 1)) attempts=0
    else # no PUBACK
        due=$((now + $(wait_s "$PUBACK_WAIT_S" "$attempts" 600))) attempts=$((attempts + 1))
    fi
    echo "$due $acknowledged $attempts" >"$SPOOL/sent/$1.new" && mv "$SPOOL/sent/$1.new" "$SPOOL/sent/$1"
}

send() {
    end=$(($(date +%s) + RUN_S))
    # The session and its subscription must be there before the first publish (-E: end once subscribed).
    # shellcheck disable=SC2086
    mosquitto_sub $BROKER -V mqttv311 -i "$ID" -c -q 1 -t "$TOPIC/receipts/+" -E || return 1
    while [ "$(date +%s)" -lt "$end" ]; do
        # At most four without a receipt: those that are under way first, then the oldest others.
        rm -f "$SPOOL"/sent/*.new
        names=$(cd "$SPOOL/sent" && ls; cd - >/dev/null && cd "$SPOOL/events" && ls)
        names=$(echo "$names" | awk 'NF && !seen[$0]++' | head -n 4)
        [ -n "$names" ] || return 0
        for name in $names; do
            if [ -f "$SPOOL/events/$name" ]; then publish "$name"; else rm -f "$SPOOL/sent/$name"; fi
        done
        listen "$(echo "$names" | wc -l)"
    done
    [ -z "$(ls "$SPOOL/events")" ]
}

case ${1-} in
    record) record "$2" "$3" "$4" ;;
    send) send ;;
    *) echo "usage: ID=… $0 record FILES ERRORS SPEED | send" >&2; exit 2 ;;
esac
