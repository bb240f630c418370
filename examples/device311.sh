#!/bin/sh
# A device that loses no event, with mosquitto_pub and mosquitto_sub only: MQTT 3.1.1, receipts by token (docs/protocol.md).
#
#   ID=PB-000123 device311.sh record 20 1 3.2     files, errors, Mbit/s; after each sync, needs no network
#   ID=PB-000123 BROKER='-h broker.example -p 8883 --cafile ca.pem' device311.sh send
#
# From cron, one at a time:  * * * * * ID=PB-000123 flock -n /var/lock/pisync device311.sh send
#
# An event is a file in $SPOOL/events. A message is a file in $SPOOL/messages, an array with an event a line; its name is its
# token, and ends with how many they are. It goes when its receipt came; what that rejects is then in $SPOOL/rejected. `send`
# ends with 0 where nothing waits any more, with 1 where something does, with 3 where something was rejected in this run.
# Receipts and commands wait in the broker's session of this id, so that nothing has to listen between two runs.
#
# A broker that knows its devices by a certificate or a user name (BROKER has --cert or -u) takes that for the client id, too: one
# connection of this device at a time. Then it listens and publishes by turns, a message every two seconds.
set -u
: "${ID:?the device id}" "${SPOOL:=spool}" "${BROKER:=-h 127.0.0.1 -p 1883}" "${BATCH:=500}"
: "${PUBACK_WAIT_S:=20}" "${RECEIPT_WAIT_S:=600}" "${RUN_S:=50}"
case " $BROKER " in *" --cert "* | *" -u "*) ALONE=yes PUBLISHER="-c -i $ID" ;; *) ALONE='' PUBLISHER="-i $ID.pub" ;; esac
TOPIC=pisync/v1/devices/$ID SINCE=$(date -u +%Y-%m-%dT%H:%M:%SZ)
mkdir -p "$SPOOL/events" "$SPOOL/messages" "$SPOOL/sent" "$SPOOL/new" "$SPOOL/rejected" && SPOOL=$(cd "$SPOOL" && pwd) || exit 1

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

keep() { # a message of so many events ($1), which standard input holds, one a line
    token=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')-$1
    sed '1s/^/[/; 2,$s/^/,/; $s/$/]/' >"$SPOOL/new.$$" && flush "$SPOOL/new.$$" && mv "$SPOOL/new.$$" "$SPOOL/messages/$token"
}

events() { sed 's/^[[,]//; s/}]$/}/' "$SPOOL/messages/$1"; }

pack() ( # the oldest events into a message; killed before `rm`, it sends them twice, which is harmless
    cd "$SPOOL/events" || exit 1
    for event in *; do
        [ -f "$event" ] && set -- "$@" "$event"
        [ $# -lt "$BATCH" ] || break
    done
    [ $# -gt 0 ] && cat "$@" | keep $# && rm "$@"
)

receipt() { # $1 token, $2 receipt, which PiSync writes without white space
    [ -f "$SPOOL/messages/$1" ] || return # of an earlier life
    events=${1##*-}
    case $2 in
        *'"reason":"rate_exceeded"'* | *'"reason":"unknown_device"'*) return ;; # as if no receipt had come
        *'"index":null'*) # not taken as a whole: its events go again, in two messages; one alone is rejected
            if [ "$events" -gt 1 ]; then
                events "$1" | head -n $((events / 2)) | keep $((events / 2))
                events "$1" | tail -n +$((events / 2 + 1)) | keep $((events - events / 2))
                rm -f "$SPOOL/messages/$1" "$SPOOL/sent/$1"
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
        events "$1" | awk -v places="$places" 'BEGIN { count = split(places, runs, " ") }
            { for (i = 1; i <= count; i++) { split(runs[i] "-" runs[i], ends, "-"); if (ends[1] < NR && NR <= ends[2] + 1) { print; next } } }' \
            >"$SPOOL/rejected/$1"
    fi
    rm -f "$SPOOL/messages/$1" "$SPOOL/sent/$1"
}

command() { # $1 as it came: {"command":"sync_now","id":"…","expires":"…"}
    set -- "$(echo "$1" | tr -d ' \t')"
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
    # shellcheck disable=SC2086  # BROKER and PUBLISHER are several words
    mosquitto_pub $BROKER -V mqttv311 $PUBLISHER -q 1 -t "$TOPIC/commands/reply" -m "{\"id\":\"$id\",\"state\":\"$state\"}"
}

listen() { # in a subshell, which becomes mosquitto_sub: the messages of our session; more options
    # shellcheck disable=SC2086
    exec mosquitto_sub $BROKER -V mqttv311 -i "$ID" -c -q 1 -t "$TOPIC/receipts/+" -t "$TOPIC/commands" -F '%t %p' "$@" \
        --will-topic "$TOPIC/status" --will-payload "{\"state\":\"offline\",\"since\":\"$SINCE\"}" --will-qos 1 --will-retain
}

hear() { # what comes, and a tick each second, until `send` ends the listener, or nobody reads it any more: `send` was killed
    trap '' PIPE
    listen -W $((RUN_S + 1)) 2>/dev/null &
    echo $! >"$SPOOL/listener"
    while sleep 1 && kill -0 $! && echo tick; do :; done 2>/dev/null
    kill $! 2>/dev/null
    wait $!
}

handle() { # $1 topic, $2 payload
    case $1 in
        tick) ticked=yes ;;
        */commands) command "$2" ;;
        *) receipt "${1##*/}" "$2" ;;
    esac
}

publish() { # $1 token; $SPOOL/sent/$1 holds: when to send again, PUBACKs that it had, attempts without one since
    due=0 acknowledged=0 attempts=0
    [ -s "$SPOOL/sent/$1" ] && read -r due acknowledged attempts <"$SPOOL/sent/$1"
    # A clock that was set back must not make the wait longer than it can be.
    [ "$due" -gt "$now" ] && [ "$due" -lt $((now + 21600)) ] && return 1
    # 1 more below, because this second may be nearly over.
    # shellcheck disable=SC2086
    if mosquitto_pub $BROKER -V mqttv311 $PUBLISHER -q 1 -t "$TOPIC/sync/$1" -f "$SPOOL/messages/$1"; then
        due=$((now + 1 + $(wait_s "$RECEIPT_WAIT_S" "$acknowledged" 14400))) acknowledged=$((acknowledged + 1)) attempts=0
    else # no PUBACK
        due=$((now + 1 + $(wait_s "$PUBACK_WAIT_S" "$attempts" 600))) attempts=$((attempts + 1))
    fi
    echo "$due $acknowledged $attempts" >"$SPOOL/sent/$1"
}

advance() { # at most four messages without a receipt
    now=$(date +%s)
    while set -- "$SPOOL"/messages/* && [ $# -lt 4 ] && pack; do :; done
    for message in "$SPOOL"/messages/*; do
        set -- "$SPOOL"/sent/*
        [ -f "$message" ] && { [ -f "$SPOOL/sent/${message##*/}" ] || [ $# -lt 4 ] || continue; } && publish "${message##*/}" || continue
        [ -z "$ALONE" ] || break # the next one's connection would take this one's receipt
    done
}

waits() {
    set -- "$SPOOL"/events/* "$SPOOL"/messages/*
    [ $# -gt 2 ] || [ -f "$1" ] || [ -f "$2" ]
}

status() { # $1 online or offline
    pending=$(cat "$SPOOL"/messages/* 2>/dev/null | wc -l)
    pending=$((pending + $(ls "$SPOOL/events" | wc -l)))
    # shellcheck disable=SC2086
    mosquitto_pub $BROKER -V mqttv311 $PUBLISHER -q 1 -r -t "$TOPIC/status" \
        -m "{\"state\":\"$1\",\"since\":\"$SINCE\",\"pending\":$pending,\"firmware\":\"example 1\"}"
}

send() {
    end=$(($(date +%s) + RUN_S)) ticked= rejected=$(ls "$SPOOL/rejected" | wc -l)
    rm -rf "$SPOOL"/new.* "$SPOOL/heard" && mkfifo "$SPOOL/heard" || return 1
    for sent in "$SPOOL"/sent/*; do [ -f "$SPOOL/messages/${sent##*/}" ] || rm -f "$sent"; done
    # The session and its subscriptions must be there before the first publish (-E: end once subscribed).
    (listen -E) >"$SPOOL/new.$$" && status online || return 1
    while read -r topic payload; do handle "$topic" "$payload"; done <"$SPOOL/new.$$"
    if [ -n "$ALONE" ]; then by_turns; else meanwhile; fi
    status offline
    ! waits || return 1
    [ "$(ls "$SPOOL/rejected" | wc -l)" -eq "$rejected" ] || return 3
}

by_turns() {
    advance
    while { waits || [ -z "$ticked" ]; } && [ "$now" -lt "$end" ]; do
        (listen -W 2) >"$SPOOL/new.$$" 2>/dev/null
        while read -r topic payload; do handle "$topic" "$payload"; done <"$SPOOL/new.$$"
        ticked=yes
        advance
    done
}

meanwhile() {
    hear >"$SPOOL/heard" &
    exec 3<"$SPOOL/heard"
    advance
    while { waits || [ -z "$ticked" ]; } && [ "$now" -lt "$end" ] && read -r topic payload <&3; do
        handle "$topic" "$payload"
        advance
    done
    # The listener leaves before its pipe is closed: what it took until then is read, and nothing comes after it.
    kill "$(cat "$SPOOL/listener")" 2>/dev/null
    while read -r topic payload <&3; do handle "$topic" "$payload"; done
    exec 3<&-
    wait # it has our client id
    rm -f "$SPOOL/listener" "$SPOOL/heard"
}

case ${1-} in
    record) record "$2" "$3" "$4" ;;
    send) send ;;
    *) echo "usage: ID=… $0 record FILES ERRORS SPEED | send" >&2; exit 2 ;;
esac
