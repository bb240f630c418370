#!/bin/sh
# A device that loses no event, with mosquitto_pub and mosquitto_sub only: MQTT 3.1.1, receipts by token (docs/protocol.md).
#
#   ID=PB-000123 device311.sh record 20 1 3.2     files, errors, Mbit/s; after each sync, needs no network
#   ID=PB-000123 BROKER='-h broker.example -p 8883 --cafile ca.pem' device311.sh send
#
# From cron, one at a time:  * * * * * ID=PB-000123 flock -n /var/lock/pisync device311.sh send
#
# An event is a file in $SPOOL/events. A message is a file in $SPOOL/messages, an event a line, and the file's name is its
# token. It goes when its receipt came; what that rejects is then in $SPOOL/rejected. `send` ends with 0 where nothing waits
# any more, with 1 where something does, with 3 where something was rejected in this run. Receipts and commands wait in the
# broker's session of this id, so that nothing has to listen between two runs.
set -u
: "${ID:?the device id}" "${SPOOL:=spool}" "${BROKER:=-h 127.0.0.1 -p 1883}" "${BATCH:=500}"
: "${PUBACK_WAIT_S:=20}" "${RECEIPT_WAIT_S:=600}" "${RUN_S:=50}" "${LISTEN_S:=5}"
TOPIC=pisync/v1/devices/$ID SINCE=$(date -u +%Y-%m-%dT%H:%M:%SZ)
mkdir -p "$SPOOL/events" "$SPOOL/messages" "$SPOOL/sent" "$SPOOL/new" "$SPOOL/rejected"

wait_s() { # $1 seconds, doubled $2 times, $3 at most, times 0.5 to 1.5: a fleet must not march in step
    seconds=$1 doubled=0
    while [ "$doubled" -lt "$2" ] && [ "$seconds" -lt "$3" ]; do seconds=$((seconds * 2)) doubled=$((doubled + 1)); done
    [ "$seconds" -gt "$3" ] && seconds=$3
    echo $((seconds * (50 + $(od -An -N2 -tu2 /dev/urandom) % 101) / 100))
}

flush() { sync "$1" 2>/dev/null || sync; } # older ones know no names

record() {
    [ "$(date +%Y)" -ge 2015 ] || echo "the clock is not set: PiSync keeps this event aside until somebody states its time" >&2
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
    printf '{"device_id":"%s","timestamp":"%s","total_files_synced":%s,"total_errors":%s,"internet_speed":%s}\n' \
        "$ID" "$time" "$1" "$2" "$3" >"$SPOOL/new/$name/event"
    flush "$SPOOL/new/$name/event" # the event is on the disk before it has its name: after a power cut no file is half of one
    mv "$SPOOL/new/$name/event" "$SPOOL/events/$name"
    # A name stays taken for its second; the directories of earlier ones go.
    for old in "$SPOOL"/new/*; do case ${old##*/} in "$(echo "$second" | tr -d :)"*) ;; *) rmdir "$old" 2>/dev/null ;; esac; done
}

keep() { # $1 a name in $SPOOL/messages for what standard input holds
    cat >"$SPOOL/new.$$" && flush "$SPOOL/new.$$" && mv "$SPOOL/new.$$" "$SPOOL/messages/$1"
}

token() { od -An -N8 -tx1 /dev/urandom | tr -d ' \n'; }

pack() { # the oldest events into a message, $1 at most; killed between the two, it sends them twice, which is harmless
    names=$(cd "$SPOOL/events" && ls | head -n "$1")
    [ -n "$names" ] || return 1
    (cd "$SPOOL/events" && echo "$names" | xargs cat) | keep "$(token)"
    (cd "$SPOOL/events" && echo "$names" | xargs rm)
}

receipt() { # $1 token, $2 receipt, which PiSync writes without white space
    message=$SPOOL/messages/$1
    [ -f "$message" ] || return # of an earlier life
    events=$(wc -l <"$message")
    case $2 in
        *'"index":null'*) # not taken as a whole: its events go again, in two messages; one alone is rejected
            if [ "$events" -gt 1 ]; then
                head -n $((events / 2)) "$message" | keep "$(token)"
                tail -n +$((events / 2 + 1)) "$message" | keep "$(token)"
                rm -f "$message" "$SPOOL/sent/$1"
                return
            fi
            places=0 ;;
        *'"rejected":[]'*) places= ;;
        *'"rejected":['*) places=$(echo "$2" | tr '{' '\n' | sed -n 's/.*"indexes":"\([0-9,-]*\)".*/\1/p; t
            s/.*"index":\([0-9]*\).*/\1/p' | tr ',\n' '  ') ;;
        *) return ;;
    esac
    if [ -n "$places" ]; then
        echo "rejected: $1 $2" >&2
        echo "$2" >"$SPOOL/rejected/$1.receipt"
        awk -v places="$places" 'BEGIN { count = split(places, runs, " ") }
            { for (i = 1; i <= count; i++) { split(runs[i] "-" runs[i], ends, "-"); if (ends[1] < NR && NR <= ends[2] + 1) { print; next } } }' \
            "$message" >"$SPOOL/rejected/$1"
    fi
    rm -f "$message" "$SPOOL/sent/$1"
}

command() { # $1 as it came: {"command":"sync_now","id":"…","expires":"…"}
    id=$(echo "$1" | sed -n 's/.*"id":"\([A-Za-z0-9]*\)".*/\1/p') expires=$(echo "$1" | sed -n 's/.*"expires":"\([^"]*\)".*/\1/p')
    # PiSync writes moments as we do, so that they sort as text.
    [ -n "$id" ] && [ "$(printf '%s\n' "$expires" "$(date -u +%Y-%m-%dT%H:%M:%S.000Z)" | sort | head -n 1)" != "$expires" ] || return
    state=refused
    case $1 in
        *'"command":"sync_now"'*)
            state=accepted
            # Here your device synchronises; the event of that sync is PiSync's proof. Each command is done once.
            grep -qx "$id" "$SPOOL/commands" 2>/dev/null || { record 0 0 0; echo "$id" >>"$SPOOL/commands"; }
            tail -n 100 "$SPOOL/commands" >"$SPOOL/commands.new" && mv "$SPOOL/commands.new" "$SPOOL/commands" ;;
    esac
    # shellcheck disable=SC2086  # BROKER is several words
    mosquitto_pub $BROKER -V mqttv311 -i "$ID.pub" -q 1 -t "$TOPIC/commands/reply" -m "{\"id\":\"$id\",\"state\":\"$state\"}"
}

listen() { # with `-E`: only subscribe; with `-C 4`: until so many came
    # shellcheck disable=SC2086
    mosquitto_sub $BROKER -V mqttv311 -i "$ID" -c -q 1 -t "$TOPIC/receipts/+" -t "$TOPIC/commands" -F '%t %p' "$@" \
        --will-topic "$TOPIC/status" --will-payload "{\"state\":\"offline\",\"since\":\"$SINCE\"}" --will-qos 1 --will-retain |
        while read -r topic payload; do
            case $topic in
                */commands) command "$payload" ;;
                *) receipt "${topic##*/}" "$payload" ;;
            esac
        done
}

publish() { # $1 token; $SPOOL/sent/$1 holds: when to send again, PUBACKs that it had, attempts without one since
    due=0 acknowledged=0 attempts=0 now=$(date +%s)
    [ -s "$SPOOL/sent/$1" ] && read -r due acknowledged attempts <"$SPOOL/sent/$1"
    # A clock that was set back must not make the wait longer than it can be.
    [ "$due" -gt "$now" ] && [ "$due" -lt $((now + 21600)) ] && return
    # shellcheck disable=SC2086
    if awk -v events="$(wc -l <"$SPOOL/messages/$1")" 'BEGIN { if (events > 1) print "[" }
        NR > 1 { print "," } { print } END { if (events > 1) print "]" }' "$SPOOL/messages/$1" |
        mosquitto_pub $BROKER -V mqttv311 -i "$ID.pub" -q 1 -t "$TOPIC/sync/$1" -s; then
        due=$((now + $(wait_s "$RECEIPT_WAIT_S" "$acknowledged" 14400))) acknowledged=$((acknowledged + 1)) attempts=0
    else # no PUBACK
        due=$((now + $(wait_s "$PUBACK_WAIT_S" "$attempts" 600))) attempts=$((attempts + 1))
    fi
    echo "$due $acknowledged $attempts" >"$SPOOL/new.$$" && mv "$SPOOL/new.$$" "$SPOOL/sent/$1"
}

status() { # $1 online or offline
    pending=$(cat "$SPOOL"/messages/* 2>/dev/null | wc -l)
    pending=$((pending + $(ls "$SPOOL/events" | wc -l)))
    # shellcheck disable=SC2086
    mosquitto_pub $BROKER -V mqttv311 -i "$ID.pub" -q 1 -r -t "$TOPIC/status" \
        -m "{\"state\":\"$1\",\"since\":\"$SINCE\",\"pending\":$pending,\"firmware\":\"example 1\"}"
}

send() {
    end=$(($(date +%s) + RUN_S)) rejected=$(ls "$SPOOL/rejected" | wc -l)
    rm -f "$SPOOL"/new.*
    # The session and its subscriptions must be there before the first publish.
    listen -E; status online || return 1
    listen -C 1 -W 1 # a command may wait for us, also where no event does
    while [ "$(date +%s)" -lt "$end" ]; do
        while [ "$(ls "$SPOOL/messages" | wc -l)" -lt 4 ] && pack "$BATCH"; do :; done
        # At most four without a receipt, those that are under way first.
        names=$(cd "$SPOOL/sent" && ls; cd - >/dev/null && cd "$SPOOL/messages" && ls)
        names=$(echo "$names" | awk 'NF && !seen[$0]++' | head -n 4)
        [ -n "$names" ] || break
        for name in $names; do
            if [ -f "$SPOOL/messages/$name" ]; then publish "$name"; else rm -f "$SPOOL/sent/$name"; fi
        done
        listen -C "$(echo "$names" | wc -l)" -W "$LISTEN_S"
    done
    status offline
    [ -z "$(ls "$SPOOL/events" && ls "$SPOOL/messages")" ] || return 1
    [ "$(ls "$SPOOL/rejected" | wc -l)" -eq "$rejected" ] || return 3
}

case ${1-} in
    record) record "$2" "$3" "$4" ;;
    send) send ;;
    *) echo "usage: ID=… $0 record FILES ERRORS SPEED | send" >&2; exit 2 ;;
esac
